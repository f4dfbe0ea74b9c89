package leasing

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"
)

// slowAsk is how long the latest request for keys may have taken for others to queue
// up behind one.
const slowAsk = 10 * time.Millisecond

// ask has keys asked back, whoever owns them. Writers that wait for one that turns out
// to be free are woken, and so are those of a key that etcd refuses to ask for. It
// reports false if that would take too long: then nothing is asked for.
func (s *session) ask(keys []string) bool {
	before := int(s.asking.Add(int64(len(keys)))) - len(keys)
	took := time.Duration(s.askTook.Load())
	if before >= pipeline*s.maxBatch || before >= pipeline && (took == 0 || took > slowAsk) {
		s.asking.Add(-int64(len(keys)))
		return false
	}
	s.asks.put(keys...)
	return true
}

// askLoop asks for keys, those that come while one batch is under way together in
// the next.
func (s *session) askLoop() {
	for s.asks.wait(s.ctx) {
		for batch := s.asks.take(s.maxBatch); len(batch) > 0; batch = s.asks.take(s.maxBatch) {
			taken := int64(len(batch))
			// Several writers may want the same key, or none by now.
			slices.Sort(batch)
			batch = slices.DeleteFunc(slices.Compact(batch), func(key string) bool { return !s.waiters.wanted(key) })
			if len(batch) > 0 {
				begin := time.Now()
				s.sendAsks(batch)
				s.askTook.Store(max(1, int64(time.Since(begin))))
			}
			s.asking.Add(-taken)
		}
	}
}

// sendAsks sends a batch. If etcd refuses it, one key is at fault, and the others are
// asked for one by one.
func (s *session) sendAsks(keys []string) {
	clauses := make([]clause, len(keys))
	for i, key := range keys {
		clauses[i] = s.layout.revokeAny(key)
	}
	resp, err := s.send(s.ctx, patience, clauses, true)
	if outcomeOf(err) == refused && len(keys) > 1 {
		for i := range keys {
			s.sendAsks(keys[i : i+1])
		}
		return
	}
	if err != nil {
		s.log.Debug("leasing: cannot ask for keys, their writers will", zap.Error(err))
	}
	for i, key := range keys {
		switch {
		case err != nil:
			s.cache.quiet(key, time.Now())
			s.waiters.wake(key)
		case resp.txns[i].Succeeded:
			s.cache.count.revokesSent.Add(1)
		case onlyKV(resp.txns[i].Responses[0]) == nil:
			s.cache.free(key, resp.header.Revision)
			s.waiters.wake(key)
		}
	}
}

// revoke asks for claims of others back, those given, for w, which waits for
// them. What turns out to be gone is not waited for.
func (s *session) revoke(ctx context.Context, claims []claimRecord, w *waiter) error {
	most := s.maxAll
	for len(claims) > 0 {
		n := min(len(claims), most)
		clauses := make([]clause, n)
		for i, r := range claims[:n] {
			clauses[i] = s.layout.revoke(r.key, r.grant)
		}
		resp, err := s.send(ctx, 0, clauses, true)
		if outcomeOf(err) == refused && n > 1 {
			most = 1 // for the error of the one at fault, or for a server that takes fewer
			continue
		}
		if err != nil {
			return err
		}
		for i, t := range resp.txns {
			if t.Succeeded {
				s.cache.count.revokesSent.Add(1)
				continue
			}
			if kv := onlyKV(t.Responses[0]); kv == nil || kv.CreateRevision != claims[i].grant {
				s.waiters.excuse(w, claims[i].key)
			}
		}
		claims = claims[n:]
	}
	return nil
}
