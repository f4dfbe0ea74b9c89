package leasing

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// yield has the claims of forgotten keys deleted. Whoever has found a stranger's write
// comes by here, so this is where it is logged.
func (s *session) yield(ys []yield) {
	if len(ys) > 0 {
		s.yields.put(ys...)
	}
	for _, y := range ys {
		if y.stranger {
			s.log.Log(s.strangers.level(time.Now(), zap.WarnLevel), "leasing: a key that is owned was written by a program that does not ask for it; "+
				"every writer must use a leasing client with this prefix", zap.String("key", y.key), zap.String("prefix", s.layout.prefix))
		}
	}
}

// yieldLoop deletes claims, those that come while one batch is under way
// together in the next, and each until it is confirmed.
func (s *session) yieldLoop() {
	pace := backoff{first: 50 * time.Millisecond, last: 10 * time.Second}
	timeout := patience // a yield may be sent twice, so one that is lost need not hold up the others
	var failed []yield  // new ones do not wait for these
	var again <-chan time.Time
	for {
		select {
		case <-s.yields.more:
		case <-again:
			again = nil
			s.yields.put(failed...)
			failed = nil
			continue
		case <-s.ctx.Done():
			return
		}
		for batch := s.yields.take(s.maxBatch); len(batch) > 0; batch = s.yields.take(s.maxBatch) {
			left := s.sendYields(batch, timeout)
			if len(left) < len(batch) { // etcd answers
				s.yields.put(failed...)
				failed, timeout = nil, patience
			} else {
				timeout = min(2*timeout, callTimeout)
			}
			failed = append(failed, left...)
		}
		if len(failed) == 0 {
			pace.reset()
		} else if again == nil {
			again = time.After(pace.pause())
		}
	}
}

func (s *session) sendYields(batch []yield, timeout time.Duration) (failed []yield) {
	clauses := make([]clause, len(batch))
	for i, y := range batch {
		clauses[i] = s.layout.yield(y)
	}
	resp, err := s.send(s.ctx, timeout, clauses, true)
	if err != nil {
		if len(batch) == 1 || outcomeOf(err) != refused {
			s.log.Debug("leasing: yield failed, will be tried again", zap.Error(err))
			return batch
		}
		for i := range batch {
			failed = append(failed, s.sendYields(batch[i:i+1], timeout)...)
		}
		return failed
	}
	for i, y := range batch {
		if y.grant == 0 {
			if kv := onlyKV(resp.txns[i].Responses[0]); kv != nil && clientv3.LeaseID(kv.Lease) == y.lease.id {
				s.yield(s.cache.found(y, kv.CreateRevision))
				continue
			}
		}
		s.cache.yielded(y, resp.header.Revision, resp.txns[i].Succeeded)
		s.waiters.wake(y.key)
	}
	s.cache.observe(resp.header)
	return nil
}
