package leasing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// keepLoop grants, renews and revokes leases, in rounds.
func (s *session) keepLoop() {
	k := &keeper{
		session: s,
		grants:  backoff{first: 50 * time.Millisecond, last: 5 * time.Second},
		revokes: backoff{first: 100 * time.Millisecond, last: 10 * time.Second},
	}
	for {
		t := time.NewTimer(time.Until(k.round(time.Now())))
		select {
		case <-t.C:
		case <-s.kick:
		case <-s.keeping.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// keeper is the state of keepLoop. The calls of one round touch different
// parts of it.
type keeper struct {
	*session
	bounds   time.Time // when to renew the lease that was handed in
	grant    time.Time // not to grant before
	grants   backoff
	refused  bool      // etcd has refused a grant, and that has been logged
	unwanted seldom    // renewals that etcd refuses, in the log
	revoke   time.Time // not to revoke before
	revokes  backoff
	probe    time.Time // when to ask the watch for a sign of life
	talkMu   sync.Mutex
	talkedAt time.Time // the first renewal that succeeded since the watch was heard; guarded by talkMu
}

// round makes the calls that are due, waits for them, and returns when the
// next are.
func (k *keeper) round(now time.Time) (next time.Time) {
	next = now.Add(deafness / 3)
	var calls []func(context.Context)
	call := func(f func(context.Context)) { calls = append(calls, f) }

	k.mu.Lock()
	leases := slices.Clone(k.leases)
	ended, wanted := k.ended, k.ears && !k.ended
	retired := len(k.retired) > 0
	k.mu.Unlock()
	if k.handed != clientv3.NoLease && !ended && !now.Before(k.bounds) {
		k.bounds = now.Add(time.Second)
		call(k.renewHanded)
	}
	if k.idle > 0 {
		next = earlier(next, k.yieldIdle(now))
	}
	if wanted && len(leases) == 0 && k.silent(now) {
		// Invariant: I14. Nothing is lost by watching anew, and nothing is to be
		// claimed before that watch runs.
		k.startOver("the watch on the claims is silent")
		wanted = false
	}
	room := 0
	for _, l := range leases {
		free := k.cache.room(l, k.perLease)
		switch {
		case !l.live(now):
			k.drop(l, "its deadline has passed")
			continue
		case free >= k.perLease && room >= k.perLease/4:
			k.drop(l, "it is not needed any more")
			continue
		case !now.Before(l.dueAt()):
			call(func(ctx context.Context) { k.renew(ctx, l) })
		}
		room += free
	}
	if wanted && room < k.perLease/4 {
		if !now.Before(k.grant) {
			call(k.grantLease)
		} else {
			next = earlier(next, k.grant)
		}
	}
	if retired {
		if !now.Before(k.revoke) {
			call(func(ctx context.Context) {
				if k.revokeRetired(ctx) {
					k.revokes.reset()
				} else {
					k.revoke = time.Now().Add(k.revokes.pause())
				}
			})
		} else {
			next = earlier(next, k.revoke)
		}
	}
	if wanted && !now.Before(k.probe) {
		k.probe = now.Add(deafness / 3)
		call(k.probeWatch)
	}
	k.callAll(calls, min(callTimeout, renewInterval(time.Duration(k.ttl)*time.Second)))

	if k.handed != clientv3.NoLease && !ended {
		next = earlier(next, k.bounds)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.leases {
		next = earlier(next, earlier(l.dueAt(), l.deadline()))
	}
	return next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// grantLease adds a lease to the session.
func (k *keeper) grantLease(ctx context.Context) {
	sent := time.Now()
	resp, err := k.lessor.Grant(ctx, k.ttl)
	if err != nil {
		log := k.log.Debug
		if isAnswer(err) && !k.refused {
			k.refused, log = true, k.log.Warn
		}
		k.inTrouble(fmt.Errorf("no lease is granted: %w", err))
		log("leasing: cannot be granted a lease, reads go to etcd, will try again", zap.Int64("ttl-seconds", k.ttl), zap.Error(err))
		k.grant = time.Now().Add(k.grants.pause())
		if isAnswer(err) {
			k.readyOnce.Do(func() { close(k.ready) })
		}
		return
	}
	k.grants.reset()
	l := newLease(resp.ID, sent, time.Duration(resp.TTL)*time.Second)
	k.mu.Lock()
	k.ids[l.id] = struct{}{}
	wanted := k.ears && !k.ended // Invariant: I14. The watch may have been refused meanwhile.
	if wanted {
		k.leases = append(k.leases, l)
	}
	k.mu.Unlock()
	if !wanted {
		k.retire(l)
		return
	}
	k.log.Info("leasing: lease granted", leaseField(l.id), zap.Int64("ttl-seconds", resp.TTL))
	k.judge("a lease was granted")
	k.readyOnce.Do(func() { close(k.ready) })
}

// renew renews l. A renewal that fails is tried again until its deadline.
func (k *keeper) renew(ctx context.Context, l *lease) {
	sent, resp, err := k.keepAlive(ctx, l.id)
	now := time.Now()
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		k.drop(l, "etcd no longer has it")
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		k.log.Log(k.unwanted.level(now, zap.WarnLevel), "leasing: etcd refuses to renew a lease, its keys are given up at its deadline",
			leaseField(l.id), zap.Error(err))
		l.retryAt(now)
	case err != nil:
		k.log.Debug("leasing: renewal failed, will be tried again", leaseField(l.id), zap.Error(err))
		l.retryAt(now)
	case !l.renew(sent, now, time.Duration(resp.TTL)*time.Second):
		k.drop(l, "it was renewed too late")
	default:
		k.cache.count.roundTrip.Store(int64(now.Sub(sent)))
		k.talked(sent)
	}
}

// keepAlive renews a lease, and returns when it sent that. It looks for the
// lease first: etcd's client repeats KeepAliveOnce without a pause, thousands
// of times a second, as long as something in the way answers Unavailable at
// once, but paces the other request.
//
// Invariant: I2. The time is taken just before the renewal itself.
func (k *keeper) keepAlive(ctx context.Context, id clientv3.LeaseID) (sent time.Time, _ *clientv3.LeaseKeepAliveResponse, err error) {
	if _, err := k.lessor.TimeToLive(ctx, id); err != nil && !isAnswer(err) {
		return sent, nil, err
	}
	sent = time.Now()
	resp, err := k.lessor.KeepAliveOnce(ctx, id)
	return sent, resp, err
}

// probeWatch asks the watch for a sign of life, which then shows in s.heard. If
// the last one was not answered, it gives the watch something to tell: a claim of
// ours that is not remembered, and so is yielded when it is seen. etcd does not
// answer for a watch that was resumed from a revision to come, as its client does
// when a connection breaks in a store that nobody writes to; nor does its gRPC
// proxy, ever.
func (k *keeper) probeWatch(ctx context.Context) {
	k.mu.Lock()
	ears := k.ears
	k.mu.Unlock()
	if !ears {
		return // the round may be old: to ask a watch that is gone makes a stream that nobody ends
	}
	if err := k.watcher.RequestProgress(k.voice(ctx)); err != nil {
		k.log.Debug("leasing: cannot probe the watch", zap.Error(err))
	}
	now := time.Now()
	if l := k.room(now); l != nil && now.Sub(k.lastHeard()) > deafness/2 {
		if _, err := k.kv.Do(ctx, k.layout.beaconOp(l.id)); err != nil {
			k.log.Debug("leasing: cannot give the watch something to tell", zap.Error(err))
		}
	}
}

// yieldIdle gives back what nobody reads, and returns when to do so again.
func (k *keeper) yieldIdle(now time.Time) (next time.Time) {
	for {
		ys, next := k.cache.sweep(now, k.idle)
		k.yield(ys)
		if next.After(now) {
			return next
		}
	}
}

// talked is told that a renewal sent at the given time succeeded. If they go
// on doing so while nothing at all comes from the watch, it is as good as
// down, and nobody can ask our keys back: everything is yielded.
//
// Invariant: I14.
func (k *keeper) talked(sent time.Time) {
	k.talkMu.Lock()
	defer k.talkMu.Unlock()
	switch {
	case !k.silent(sent):
		k.talkedAt = time.Time{}
	case k.talkedAt.IsZero():
		k.talkedAt = sent
	case sent.Sub(k.talkedAt) > deafness:
		k.talkedAt = time.Time{}
		k.log.Warn("leasing: the watch on the claim prefix is silent while leases are renewed, all keys are given back",
			zap.String("prefix", k.layout.prefix), zap.Time("last-heard", k.lastHeard()), zap.NamedError("latest", k.troubles()))
		k.startOver("the watch on the claims is silent")
	}
}

// renewHanded keeps the lease alive that the caller handed in, as a session
// of etcd's concurrency package does. Nothing hangs on it but our life.
func (k *keeper) renewHanded(ctx context.Context) {
	_, resp, err := k.keepAlive(ctx, k.handed)
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		k.finish("the lease that was handed in is gone")
	case err == nil:
		k.bounds = time.Now().Add(renewInterval(time.Duration(resp.TTL) * time.Second))
	}
}

// followLife ends the session when the context is over that bounds its life, at once:
// the keeper may be waiting for calls that hang.
func (s *session) followLife() {
	select {
	case <-s.life.Done():
		s.finish("its context is done")
	case <-s.ctx.Done():
	}
}

// lingers reports whether claims of ours may be in etcd whose lease is over.
func (s *session) lingers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.retired) > 0
}

// finish ends the session: reads and writes go to etcd.
func (s *session) finish(why string) {
	s.mu.Lock()
	before := s.ended
	s.ended = true
	endAll(s.leases)
	s.mu.Unlock()
	if !before {
		s.reset(why)
		s.readyOnce.Do(func() { close(s.ready) })
	}
}

// revokeRetired revokes the leases that are over, and reports whether none is left. At
// least half of the time it leaves to others: etcd serves nobody else while it deletes
// the claims of a lease, and has to write that down. So one follows the other, unless
// they take long, over a distance say. A lease that etcd refuses to revoke is left for
// the next time; if there is no answer, so are the others. A lease that cannot be revoked
// expires.
func (s *session) revokeRetired(ctx context.Context) bool {
	s.mu.Lock()
	todo := slices.Clone(s.retired)
	s.mu.Unlock()
	var left atomic.Bool
	staggered(len(todo), closeLeaseTimeout, func(i int) bool { // within the bound of Close
		_, err := s.lessor.Revoke(ctx, todo[i])
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			s.log.Debug("leasing: cannot revoke a lease", leaseField(todo[i]), zap.Error(err))
			left.Store(true)
			return isAnswer(err)
		}
		s.mu.Lock()
		s.retired = slices.DeleteFunc(s.retired, func(r clientv3.LeaseID) bool { return r == todo[i] })
		delete(s.ids, todo[i])
		s.mu.Unlock()
		return true
	})
	return !left.Load()
}

// leaseField names a lease in the log, as etcd and etcdctl do.
func leaseField(id clientv3.LeaseID) zap.Field {
	return zap.String("lease", strconv.FormatInt(int64(id), 16))
}
