package leasing

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
)

// claim returns the claim under way on key, for the caller to wait for, or
// nil if key is not to be claimed now, and why. See cache.join.
func (s *session) claim(key string, now time.Time) (cl *claim, share bool, why reason) {
	if !s.mayClaim(now) {
		return nil, false, forNoSession
	}
	cl, begun, share := s.cache.join(key, now)
	switch {
	case cl == nil:
		why = s.cache.whyNot(key, now)
	case begun:
		s.claims.put(cl)
	}
	return cl, share, why
}

// want begins to claim keys that nobody may have read yet. It reports false if nothing
// is claimed now. See cache.want.
func (s *session) want(keys []string, now time.Time) (w wanted, ok bool) {
	if !s.mayClaim(now) {
		return w, false
	}
	w = s.cache.want(keys, now)
	if len(w.begun) > 0 {
		s.claims.put(w.begun...)
	}
	return w, true
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
	stuck := slices.ContainsFunc(s.sending[:], func(sent time.Time) bool { return !sent.IsZero() && now.Sub(sent) >= patience })
	return s.ears && !s.ended && len(s.leases) > 0 && !now.Before(s.hold) && !stuck
}

// obstacle says why nothing is claimed, and whether that will stay so as long as nobody
// does anything about it.
func (s *session) obstacle(now time.Time) (why error, stays bool) {
	silent := s.silent(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return errors.New("the session with etcd has ended"), true
	case s.trouble != nil:
		why = s.trouble
	case !s.ears, silent:
		why = errors.New("the watch on the claim prefix is down")
	case len(s.leases) == 0:
		why = errors.New("there is no lease")
	default:
		why = errors.New("etcd does not answer claims, or grants no more leases")
	}
	return why, s.deafened // whatever a claim that was under way has said since
}

// refuseQueued gives up the claims that have not been sent, and so wakes those
// who wait for them: they read from etcd. It is for whoever finds that the
// queue does not move, since claimLoop may be waiting for a reply.
func (s *session) refuseQueued() {
	for batch := s.claims.take(s.maxBatch); len(batch) > 0; batch = s.claims.take(s.maxBatch) {
		s.settleClaims(batch, nil, claimReply{outcome: refused})
	}
}

// room returns a live lease that has room for claims; none while nothing is to be
// claimed.
//
// Invariant: I14.
func (s *session) room(now time.Time) (best *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ears {
		return nil
	}
	total := 0
	for _, l := range s.leases {
		free := s.cache.room(l, s.perLease)
		total += max(free, 0)
		if free > 0 && best == nil && l.live(now) {
			best = l
		}
	}
	if total < s.perLease/4 {
		s.nudge()
	}
	return best
}

// claimLoop sends claims, those that come while one batch is under way together
// in the next. It is the i-th of its kind.
func (s *session) claimLoop(i int) {
	free := true // the latest batch found every key unclaimed
	for s.claims.wait(s.ctx) {
		for batch := s.nextClaims(free); len(batch) > 0; batch = s.nextClaims(free) {
			for len(batch) > 0 {
				l := s.room(time.Now())
				if l == nil {
					s.settleClaims(batch, nil, claimReply{outcome: refused})
					break
				}
				n := s.cache.send(batch, l, s.perLease)
				if n == 0 {
					continue // the other loop was quicker
				}
				s.setSending(i, time.Now())
				free = s.sendClaims(batch[:n], l, free && n <= s.maxAll)
				s.setSending(i, time.Time{})
				batch = batch[n:]
			}
		}
	}
}

// nextClaims takes what is queued, up to what goes into one request.
func (s *session) nextClaims(all bool) []*claim {
	if all {
		return s.claims.gather(s.maxAll)
	}
	return s.claims.gather(s.maxBatch)
}

// sendClaims sends claims, which are marked as sent, settles them, and reports
// whether every key was unclaimed. That may be expected. If etcd refuses them, one of
// them is at fault, and none of the others shall suffer for it: they are sent again
// one by one. Once an outcome is unknown, nothing more is sent.
//
// Invariant: I3. Only what was refused is sent again.
func (s *session) sendClaims(batch []*claim, l *lease, expected bool) (free bool) {
	free = true
	for n := len(batch); len(batch) > 0; {
		clauses := make([]clause, n)
		for i, cl := range batch[:n] {
			clauses[i] = s.layout.claim(cl.key, l.id)
		}
		resp, err := s.send(s.ctx, callTimeout, clauses, expected)
		switch {
		case err == nil:
			s.holdClaims(nil)
			s.settleClaims(batch[:n], resp, claimReply{})
			for _, t := range resp.txns {
				free = free && t.Succeeded
			}
			batch = batch[n:]
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			s.drop(l, "etcd no longer has it")
			s.settleClaims(batch, nil, claimReply{outcome: refused})
			return free
		case outcomeOf(err) == unknown:
			s.holdClaims(err)
			s.settleClaims(batch[:n], nil, claimReply{outcome: unknown})
			s.settleClaims(batch[n:], nil, claimReply{outcome: refused})
			return free
		case n == 1:
			s.denied(batch[0].key, err)
			s.settleClaims(batch[:1], nil, claimReply{outcome: refused, denied: true})
			batch = batch[1:]
		default:
			n, free = 1, false
		}
	}
	return free
}

func (s *session) setSending(i int, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending[i] = t
}

// denied logs that etcd refused a claim: the first time for lack of rights at
// a level that is seen.
func (s *session) denied(key string, err error) {
	log := s.log.Debug
	s.mu.Lock()
	s.trouble = fmt.Errorf("etcd refuses claims: %w", err)
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
	if err == nil {
		s.pace.reset()
		s.trouble = nil
		s.mu.Unlock()
		return
	}
	s.hold = time.Now().Add(s.pace.pause())
	s.trouble = fmt.Errorf("claims fail: %w", err)
	s.mu.Unlock()
	s.log.Debug("leasing: claims failed, reads go to etcd", zap.Error(err))
}
