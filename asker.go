package leasing

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"
)

// mutePause is for how long nothing is asked for once that has failed: etcd may be out
// of space, or we without rights.
const mutePause = 5 * time.Second

// ask has keys asked back, whoever owns them. Writers that wait for one that turns out
// to be free are woken, and so are all if etcd refuses to ask: they find out
// themselves. It reports false if nothing is asked for now.
func (s *session) ask(keys []string) bool {
	if time.Now().UnixNano() < s.mute.Load() {
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
			slices.Sort(batch)
			s.sendAsks(slices.Compact(batch)) // several writers may want the same
		}
	}
}

func (s *session) sendAsks(keys []string) {
	clauses := make([]clause, len(keys))
	for i, key := range keys {
		clauses[i] = s.layout.revokeAny(key)
	}
	resp, err := s.batch(patience, clauses, true)
	if err != nil {
		s.log.Debug("leasing: cannot ask for claims, their writers will", zap.Error(err))
		s.mute.Store(time.Now().Add(mutePause).UnixNano())
	}
	for i, key := range keys {
		if err != nil || !resp.txns[i].Succeeded && onlyKV(resp.txns[i].Responses[0]) == nil {
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
		resp, err := s.send(ctx, clauses, true)
		if outcomeOf(err) == refused && n > 1 {
			most = 1 // for the error of the one at fault, or for a server that takes fewer
			continue
		}
		if err != nil {
			return err
		}
		for i, t := range resp.txns {
			if t.Succeeded {
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
