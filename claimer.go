package leasing

import (
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// claim returns the claim under way on key, for the caller to wait for, or
// nil if key is not to be claimed now. See cache.join.
func (s *session) claim(key string, now time.Time) (cl *claim, share bool) {
	if !s.mayClaim(now) {
		return nil, false
	}
	cl, begun, share := s.cache.join(key, now)
	if begun {
		s.claims.put(cl)
	}
	return cl, share
}

// mayClaim reports whether anything is claimed at now. It is not while etcd
// owes the reply to earlier claims: readers should not queue up behind them.
//
// Invariant: I14. No claims without ears.
func (s *session) mayClaim(now time.Time) bool {
	if s.silent(now) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stuck := !s.sending.IsZero() && now.Sub(s.sending) >= patience
	return s.ears && !s.ended && len(s.leases) > 0 && !now.Before(s.hold) && !stuck
}

// refuseQueued gives up the claims that have not been sent, and so wakes those
// who wait for them: they read from etcd. It is for whoever finds that the
// queue does not move, since claimLoop may be waiting for a reply.
func (s *session) refuseQueued() {
	for batch := s.claims.take(s.maxBatch); len(batch) > 0; batch = s.claims.take(s.maxBatch) {
		s.settleClaims(batch, nil, claimReply{outcome: refused})
	}
}

// room returns a live lease that has room for claims, and for how many; none
// while nothing is to be claimed.
//
// Invariant: I14.
func (s *session) room(now time.Time) (best *lease, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ears {
		return nil, 0
	}
	total := 0
	for _, l := range s.leases {
		free := s.cache.room(l, s.perLease)
		total += max(free, 0)
		if free > 0 && best == nil && l.live(now) {
			best, n = l, free
		}
	}
	if total < s.perLease/4 {
		s.nudge()
	}
	return best, n
}

// claimLoop sends claims, those that come while one batch is under way
// together in the next.
func (s *session) claimLoop() {
	for s.claims.wait(s.ctx) {
		for batch := s.claims.take(s.maxBatch); len(batch) > 0; batch = s.claims.take(s.maxBatch) {
			for len(batch) > 0 {
				l, n := s.room(time.Now())
				n = min(n, len(batch))
				if l == nil {
					s.settleClaims(batch, nil, claimReply{outcome: refused})
					break
				}
				s.sendClaims(batch[:n], l)
				batch = batch[n:]
			}
		}
	}
}

// sendClaims sends claims under l and settles them. If etcd refuses them, one of
// them is at fault, and none of the others shall suffer for it: they are sent
// again one by one. Once an outcome is unknown, nothing more is sent.
//
// Invariant: I3. Only what was refused is sent again.
func (s *session) sendClaims(batch []*claim, l *lease) {
	s.cache.send(batch, l)
	s.setSending(time.Now())
	defer s.setSending(time.Time{})
	for n := len(batch); len(batch) > 0; n = 1 {
		part := batch[:n]
		resp, err := s.batch(callTimeout, n, func(i int) clientv3.Op { return s.layout.claimOp(part[i].key, l.id) })
		switch {
		case err == nil:
			s.holdClaims(nil)
			s.settleClaims(part, resp, claimReply{})
			batch = batch[n:]
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			s.drop(l, "etcd no longer has it")
			s.settleClaims(batch, nil, claimReply{outcome: refused})
			return
		case outcomeOf(err) == unknown:
			s.holdClaims(err)
			s.settleClaims(part, nil, claimReply{outcome: unknown})
			s.settleClaims(batch[n:], nil, claimReply{outcome: refused})
			return
		case n == 1:
			s.denied(part[0].key, err)
			s.settleClaims(part, nil, claimReply{outcome: refused, denied: true})
			batch = batch[n:]
		}
	}
}

func (s *session) setSending(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending = t
}

// denied logs that etcd refused a claim: the first time for lack of rights at
// a level that is seen.
func (s *session) denied(key string, err error) {
	log := s.log.Debug
	s.mu.Lock()
	if !s.denials && errors.Is(err, rpctypes.ErrPermissionDenied) {
		s.denials, log = true, s.log.Warn
	}
	s.mu.Unlock()
	log("leasing: etcd refuses a claim, reads of such keys go to etcd",
		zap.String("key", key), zap.String("prefix", s.layout.prefix), zap.Error(err))
}

// settleClaims settles each claim with its reply, or with r if there is none.
func (s *session) settleClaims(claims []*claim, resp *batchReply, r claimReply) {
	for i, cl := range claims {
		if resp != nil {
			r = s.claimReply(resp.txns[i], resp.header)
		}
		s.yield(s.cache.settleClaim(cl, r, time.Now()))
	}
}

func (s *session) claimReply(resp *etcdserverpb.TxnResponse, hdr *etcdserverpb.ResponseHeader) claimReply {
	r := claimReply{outcome: refused, hdr: hdr, kv: onlyKV(resp.Responses[0])}
	if resp.Succeeded {
		r.outcome = applied
	} else if kv := onlyKV(resp.Responses[1]); kv != nil {
		other := s.layout.record(kv)
		r.other, r.ours = &other, s.ours(other)
	}
	return r
}

// holdClaims pauses all claims after one whose outcome is unknown, longer
// each time, until one succeeds.
func (s *session) holdClaims(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.pace.reset()
		return
	}
	s.hold = time.Now().Add(s.pace.pause())
	s.log.Debug("leasing: claims failed, reads go to etcd", zap.Error(err))
}
