package leasing

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// session is this KV's standing with etcd: the leases that its claims hang on
// and the watch on the claim prefix. It sends claims and yields, answers
// REVOKEs, and tells waiting writers that a claim is gone. It never decides
// who owns a key: that is for the cache.
//
// It has four goroutines, whatever the number of keys; all of them run under
// its own context, never a caller's, and end with close.
type session struct {
	kv      clientv3.KV
	watcher clientv3.Watcher
	lessor  clientv3.Lease
	cache   *cache
	layout  layout
	log     *zap.Logger

	ttl      int64              // of leases to be granted, in seconds
	perLease int                // the most claims on one lease
	handed   clientv3.LeaseID   // bounds the life of the session, if not zero
	life     context.Context    // so does this
	ctx      context.Context    // ends with close
	stop     context.CancelFunc // ends ctx
	wg       sync.WaitGroup

	ready     chan struct{} // closed when claims may begin, or are refused for now
	readyOnce sync.Once

	claims  queue[*claim]
	yields  queue[yield]
	waiters waiters

	kick  chan struct{} // wakes keepLoop
	heard atomic.Int64  // when the watch last said anything, in Unix nanoseconds

	// mu guards the rest. No call is made under it but to the leases and the
	// cache.
	mu       sync.Mutex
	ears     bool // the watch runs (I14)
	deafened bool // the watch was refused, and that has been logged
	ended    bool // nothing is claimed any more
	leases   []*lease
	ids      map[clientv3.LeaseID]struct{} // every lease of ours that may hold claims
	retired  []clientv3.LeaseID            // leases to be revoked
	hold     time.Time                     // nothing is claimed before
	pace     backoff                       // of hold
}

const (
	claimsPerLease     = 1000 // etcd deletes a lease's keys in one apply, 5.5 µs each
	claimsPerAuthLease = 100  // with auth on, a claim checks every key of its lease

	// maxBatch claims or yields go into one transaction. It stays below
	// etcd's default --max-txn-ops, less what each of them nests.
	maxBatch = 100

	// callTimeout bounds a request of the session's own.
	callTimeout = 5 * time.Second
	// closeTimeout bounds close.
	closeTimeout = 2500 * time.Millisecond
	// deafness is how long the watch may say nothing while renewals succeed.
	deafness = 10 * time.Second
)

func (s *session) start() {
	s.kick = make(chan struct{}, 1)
	s.ready = make(chan struct{})
	s.claims.more = make(chan struct{}, 1)
	s.yields.more = make(chan struct{}, 1)
	s.ids = make(map[clientv3.LeaseID]struct{})
	s.pace = backoff{first: 100 * time.Millisecond, last: 10 * time.Second}
	s.waiters.m = make(map[string][]*waiter)
	for _, loop := range []func(){s.listenLoop, s.keepLoop, s.claimLoop, s.yieldLoop} {
		s.wg.Go(loop)
	}
}

// close ends every goroutine and then hands everything over: it revokes the
// leases, so that the next writer goes straight through.
//
// Invariant: I7. What is released has been forgotten.
func (s *session) close() {
	s.stop()
	s.wg.Wait()
	s.reset()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), closeTimeout)
	defer cancel()
	s.revokeRetired(ctx)
}

func (s *session) nudge() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// sleep waits for d, and reports false if the session is closed before.
func (s *session) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// ours reports whether a claim hangs on a lease of this session.
func (s *session) ours(r claimRecord) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.ids[r.lease]
	return ok
}

// reset ends the epoch: everything is forgotten, and the leases are revoked
// in the background. The next epoch begins when the watch runs.
func (s *session) reset() {
	s.mu.Lock()
	leases := s.leases
	s.leases = nil
	s.mu.Unlock()
	for _, l := range leases {
		s.retire(l)
	}
	s.cache.dropLease(nil)
}

// retire ends a lease that is in s.leases no more, and has it revoked.
func (s *session) retire(l *lease) {
	l.end()
	s.cache.dropLease(l)
	s.mu.Lock()
	s.retired = append(s.retired, l.id)
	s.mu.Unlock()
	s.nudge()
}

// drop retires a lease that has lapsed, or that etcd no longer has.
func (s *session) drop(l *lease, why string) {
	s.mu.Lock()
	found := false
	for i, m := range s.leases {
		if m == l {
			s.leases = append(s.leases[:i:i], s.leases[i+1:]...)
			found = true
			break
		}
	}
	s.mu.Unlock()
	if found {
		s.log.Info("leasing: lease is over, its keys are dropped", zap.String("why", why), zap.Int64("lease", int64(l.id)))
		s.retire(l)
	}
}

// ---- Claims

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

// mayClaim reports whether anything is claimed at now.
//
// Invariant: I14. No claims without ears.
func (s *session) mayClaim(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ears && !s.ended && len(s.leases) > 0 && !now.Before(s.hold)
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
		for batch := s.claims.take(maxBatch); len(batch) > 0; batch = s.claims.take(maxBatch) {
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

func (s *session) sendClaims(batch []*claim, l *lease) {
	s.cache.send(batch, l)
	resp, err := s.batch(len(batch), func(i int) clientv3.Op { return s.layout.claimOp(batch[i].key, l.id) })
	if err == nil {
		s.holdClaims(nil)
		s.settleClaims(batch, resp, claimReply{})
		return
	}
	switch out := outcomeOf(err); {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		s.drop(l, "etcd no longer has it")
		s.settleClaims(batch, nil, claimReply{outcome: refused})
	case out == refused && len(batch) > 1:
		// One of them is at fault. None of the others shall suffer for it.
		for i := range batch {
			s.sendClaim(batch[i], l)
		}
	case out == refused:
		s.log.Debug("leasing: claim refused", zap.String("key", batch[0].key), zap.Error(err))
		s.settleClaims(batch, nil, claimReply{outcome: refused, denied: true})
	default:
		s.holdClaims(err)
		s.settleClaims(batch, nil, claimReply{outcome: unknown})
	}
}

// sendClaim sends a claim that was counted on l already.
func (s *session) sendClaim(cl *claim, l *lease) {
	resp, err := s.batch(1, func(int) clientv3.Op { return s.layout.claimOp(cl.key, l.id) })
	if err != nil {
		s.settleClaims([]*claim{cl}, nil, claimReply{outcome: outcomeOf(err), denied: true})
		return
	}
	s.settleClaims([]*claim{cl}, resp, claimReply{})
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

// batchReply is the answer to a batch: one for each of its transactions.
type batchReply struct {
	header *etcdserverpb.ResponseHeader
	txns   []*etcdserverpb.TxnResponse
}

// batch sends n transactions under the session's own context.
func (s *session) batch(n int, op func(int) clientv3.Op) (*batchReply, error) {
	ctx, cancel := context.WithTimeout(s.ctx, callTimeout)
	defer cancel()
	return s.send(ctx, n, op)
}

// send sends n transactions in one request, and so in one raft entry.
func (s *session) send(ctx context.Context, n int, op func(int) clientv3.Op) (*batchReply, error) {
	if n == 1 {
		resp, err := s.kv.Do(ctx, op(0))
		if err != nil {
			return nil, err
		}
		txn := (*etcdserverpb.TxnResponse)(resp.Txn())
		return &batchReply{txn.Header, []*etcdserverpb.TxnResponse{txn}}, nil
	}
	ops := make([]clientv3.Op, n)
	for i := range ops {
		ops[i] = op(i)
	}
	resp, err := s.kv.Do(ctx, clientv3.OpTxn(nil, ops, nil))
	if err != nil {
		return nil, err
	}
	r := &batchReply{header: resp.Txn().Header, txns: make([]*etcdserverpb.TxnResponse, n)}
	for i, t := range resp.Txn().Responses {
		r.txns[i] = t.GetResponseTxn()
	}
	return r, nil
}

// ---- Yields

// yield has the claims of forgotten keys deleted.
func (s *session) yield(ys []yield) {
	if len(ys) > 0 {
		s.yields.put(ys...)
	}
}

// yieldLoop deletes claims, those that come while one batch is under way
// together in the next, and each until it is confirmed.
func (s *session) yieldLoop() {
	pace := backoff{first: 50 * time.Millisecond, last: 10 * time.Second}
	var failed []yield // new ones do not wait for these
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
		for batch := s.yields.take(maxBatch); len(batch) > 0; batch = s.yields.take(maxBatch) {
			failed = append(failed, s.sendYields(batch)...)
		}
		if len(failed) == 0 {
			pace.reset()
		} else if again == nil {
			again = time.After(pace.pause())
		}
	}
}

func (s *session) sendYields(batch []yield) (failed []yield) {
	resp, err := s.batch(len(batch), func(i int) clientv3.Op { return s.layout.yieldOp(batch[i]) })
	if err != nil {
		if len(batch) == 1 || outcomeOf(err) != refused {
			s.log.Debug("leasing: yield failed, will be tried again", zap.Error(err))
			return batch
		}
		for i := range batch {
			failed = append(failed, s.sendYields(batch[i:i+1])...)
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
		s.cache.yielded(y)
		s.waiters.wake(y.key)
	}
	s.cache.observe(resp.header)
	return nil
}

// ---- Revokes

// revoke asks for claims of others back, those given, for w, which waits for
// them. What turns out to be gone is not waited for.
func (s *session) revoke(ctx context.Context, claims []claimRecord, w *waiter) error {
	for len(claims) > 0 {
		n := min(len(claims), maxBatch)
		resp, err := s.send(ctx, n, func(i int) clientv3.Op { return s.layout.revokeOp(claims[i].key, claims[i].grant) })
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

// ---- The watch

// listenLoop keeps the watch on the claims running.
func (s *session) listenLoop() {
	pace := backoff{first: 20 * time.Millisecond, last: 5 * time.Second}
	next := int64(0) // the revision to go on from; 0: none yet; gap: it was compacted
	for {
		began := time.Now()
		err := s.listen(&next)
		if s.ctx.Err() != nil {
			return
		}
		s.deafen(err)
		if time.Since(began) > pace.last {
			pace.reset()
		}
		if !s.sleep(pace.pause()) {
			return
		}
	}
}

const gap = -1

// listen watches the claims from revision *next on until the watch fails.
//
// Invariant: I14. After a gap it lists the claims first, to make up for what
// it missed.
func (s *session) listen(next *int64) error {
	if *next == gap {
		ctx, cancel := context.WithTimeout(s.ctx, 2*callTimeout)
		listing, rev, err := s.list(ctx, keyRange{s.layout.prefix, s.layout.end})
		cancel()
		if err != nil {
			return err
		}
		s.yield(s.cache.reconcile(listing, rev, s.ours, time.Now()))
		*next = rev + 1
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(s.ctx))
	defer cancel()
	events := s.watcher.Watch(ctx, s.layout.prefix, clientv3.WithRange(s.layout.end),
		clientv3.WithRev(*next), clientv3.WithCreatedNotify())
	for resp := range events {
		if resp.CompactRevision != 0 {
			*next = gap
			return resp.Err()
		}
		if err := resp.Err(); err != nil {
			return err
		}
		s.heard.Store(time.Now().UnixNano())
		for _, ev := range resp.Events {
			s.apply(ev)
			*next = ev.Kv.ModRevision + 1
		}
		if resp.Created && *next == 0 {
			*next = resp.Header.Revision + 1
		}
		s.cache.observe(resp.Header)
		if resp.Created {
			s.hear()
		}
	}
	return errors.New("leasing: watch ended")
}

// apply takes in one event of the watch.
func (s *session) apply(ev *clientv3.Event) {
	now := time.Now()
	if ev.Type == mvccpb.DELETE {
		key := string(ev.Kv.Key[len(s.layout.prefix):])
		if l := s.cache.deleted(key, ev.Kv.ModRevision); l != nil {
			l.suspect(now)
			s.nudge()
		}
		s.waiters.wake(key)
		return
	}
	r := s.layout.record(ev.Kv)
	switch ours := s.ours(r); {
	case r.revoked:
		s.yield(s.cache.revoked(r, ours, now))
	case ours && ev.IsCreate():
		s.yield(s.cache.created(r))
	}
}

// list returns the claims in a range of the claim prefix and the revision at
// which they were as listed.
func (s *session) list(ctx context.Context, r keyRange) (listing []claimRecord, rev int64, err error) {
	const page = 5000
	for begin := r.begin; ; {
		resp, err := s.kv.Get(ctx, begin, clientv3.WithRange(r.end), clientv3.WithRev(rev), clientv3.WithLimit(page))
		if err != nil {
			return nil, 0, err
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			listing = append(listing, s.layout.record(kv))
		}
		if !resp.More {
			return listing, rev, nil
		}
		begin = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// hear is told that the watch runs.
func (s *session) hear() {
	s.mu.Lock()
	s.ears, s.deafened = true, false
	s.mu.Unlock()
	s.nudge()
}

// deafen is told that the watch does not run. If etcd refuses it, everything
// is yielded; else that is left to keepLoop, should it last.
//
// Invariant: I14.
func (s *session) deafen(err error) {
	s.mu.Lock()
	s.ears = false
	first := !s.deafened
	refusal := isRefusedWatch(err)
	if refusal {
		s.deafened = true
	}
	s.mu.Unlock()
	if !refusal {
		s.log.Debug("leasing: watch interrupted", zap.Error(err))
		return
	}
	if first {
		s.log.Warn("leasing: etcd refuses the watch on the claim prefix, reads go to etcd",
			zap.String("prefix", s.layout.prefix), zap.Error(err))
	}
	s.reset()
	s.readyOnce.Do(func() { close(s.ready) })
}

// ---- Leases

// keepLoop grants, renews and revokes leases, in rounds.
func (s *session) keepLoop() {
	if s.life.Done() != nil {
		defer context.AfterFunc(s.life, s.nudge)()
	}
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
		case <-s.ctx.Done():
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
	revoke   time.Time // not to revoke before
	revokes  backoff
	probe    time.Time // when to ask the watch for a sign of life
	talkMu   sync.Mutex
	talkedAt time.Time // the first renewal that succeeded since the watch was heard; guarded by talkMu
}

// maxCalls is how many calls of one round are under way at once.
const maxCalls = 8

// round makes the calls that are due, waits for them, and returns when the
// next are.
func (k *keeper) round(now time.Time) (next time.Time) {
	next = now.Add(deafness / 3)
	var wg sync.WaitGroup
	calls := make(chan struct{}, maxCalls)
	call := func(f func(context.Context)) {
		calls <- struct{}{}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(k.ctx, min(callTimeout, renewInterval(time.Duration(k.ttl)*time.Second)))
			defer cancel()
			f(ctx)
			<-calls
		})
	}

	if k.life.Err() != nil {
		k.finish("its context is done")
	}
	if k.handed != clientv3.NoLease && !now.Before(k.bounds) {
		k.bounds = now.Add(time.Second)
		call(k.renewHanded)
	}
	k.mu.Lock()
	leases := append([]*lease(nil), k.leases...)
	wanted := k.ears && !k.ended
	retired := len(k.retired) > 0
	k.mu.Unlock()
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
		call(func(ctx context.Context) {
			// Its answer, or the lack of it, shows in s.heard.
			if err := k.watcher.RequestProgress(clientv3.WithRequireLeader(ctx)); err != nil {
				k.log.Debug("leasing: cannot probe the watch", zap.Error(err))
			}
		})
	}
	wg.Wait()

	if k.handed != clientv3.NoLease {
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
		k.log.Debug("leasing: cannot grant a lease, will try again", zap.Error(err))
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
	wanted := !k.ended
	if wanted {
		k.leases = append(k.leases, l)
	}
	k.mu.Unlock()
	if !wanted {
		k.retire(l)
		return
	}
	k.log.Info("leasing: lease granted", zap.Int64("lease", int64(l.id)), zap.Int64("ttl-seconds", resp.TTL))
	k.readyOnce.Do(func() { close(k.ready) })
}

// renew renews l. A renewal that fails is tried again until its deadline.
func (k *keeper) renew(ctx context.Context, l *lease) {
	sent := time.Now()
	resp, err := k.lessor.KeepAliveOnce(ctx, l.id)
	now := time.Now()
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		k.drop(l, "etcd no longer has it")
	case err != nil:
		k.log.Debug("leasing: renewal failed, will be tried again", zap.Int64("lease", int64(l.id)), zap.Error(err))
		l.retryAt(now)
	case !l.renew(sent, now, time.Duration(resp.TTL)*time.Second):
		k.drop(l, "it was renewed too late")
	default:
		k.talked(sent)
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
	heard := time.Unix(0, k.heard.Load())
	switch {
	case !sent.After(heard.Add(deafness)):
		k.talkedAt = time.Time{}
	case k.talkedAt.IsZero():
		k.talkedAt = sent
	case sent.Sub(k.talkedAt) > deafness:
		k.talkedAt = time.Time{}
		k.log.Warn("leasing: the watch on the claim prefix is silent while leases are renewed, all keys are given back",
			zap.String("prefix", k.layout.prefix), zap.Time("last-heard", heard))
		k.reset()
	}
}

// renewHanded keeps the lease alive that the caller handed in, as a session
// of etcd's concurrency package does. Nothing hangs on it but our life.
func (k *keeper) renewHanded(ctx context.Context) {
	resp, err := k.lessor.KeepAliveOnce(ctx, k.handed)
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		k.finish("the lease that was handed in is gone")
	case err == nil:
		k.bounds = time.Now().Add(renewInterval(time.Duration(resp.TTL) * time.Second))
	}
}

// finish ends the session without closing it: reads and writes go to etcd.
func (s *session) finish(why string) {
	s.mu.Lock()
	before := s.ended
	s.ended = true
	s.mu.Unlock()
	if !before {
		s.log.Info("leasing: session ended, reads go to etcd", zap.String("why", why))
		s.reset()
		s.readyOnce.Do(func() { close(s.ready) })
	}
}

// revokeRetired revokes the leases that are over, one after the other, and
// reports whether none is left. A lease that cannot be revoked expires.
func (s *session) revokeRetired(ctx context.Context) bool {
	for {
		s.mu.Lock()
		if len(s.retired) == 0 {
			s.mu.Unlock()
			return true
		}
		id := s.retired[0]
		s.mu.Unlock()
		if _, err := s.lessor.Revoke(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			s.log.Debug("leasing: cannot revoke a lease", zap.Int64("lease", int64(id)), zap.Error(err))
			return false
		}
		s.mu.Lock()
		s.retired = s.retired[1:]
		delete(s.ids, id)
		s.mu.Unlock()
	}
}

// ---- What the loops wait on

// queue hands items to one loop.
type queue[T any] struct {
	mu    sync.Mutex
	items []T
	more  chan struct{} // has room for one
}

func (q *queue[T]) put(items ...T) {
	q.mu.Lock()
	q.items = append(q.items, items...)
	q.mu.Unlock()
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// wait waits for items, and reports false when ctx has ended.
func (q *queue[T]) wait(ctx context.Context) bool {
	select {
	case <-q.more:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// take removes up to n items.
func (q *queue[T]) take(n int) []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.items))
	out := q.items[:n:n]
	if q.items = q.items[n:]; len(q.items) == 0 {
		q.items = nil
	}
	return out
}

// waiters are the writers that wait for claims to go.
type waiters struct {
	mu sync.Mutex
	m  map[string][]*waiter
}

// waiter waits for the claims of some keys. Its owner makes it before the
// REVOKEs are sent, so that no news is missed.
type waiter struct {
	gone    chan struct{}       // closed when pending is empty
	pending map[string]struct{} // guarded by waiters.mu
}

func (ws *waiters) join(keys ...string) *waiter {
	w := &waiter{gone: make(chan struct{}), pending: make(map[string]struct{}, len(keys))}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, k := range keys {
		w.pending[k] = struct{}{}
		ws.m[k] = append(ws.m[k], w)
	}
	return w
}

// wake tells those who wait for key that its claim is gone.
func (ws *waiters) wake(key string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.m[key] {
		delete(w.pending, key)
		if len(w.pending) == 0 {
			close(w.gone)
		}
	}
	delete(ws.m, key)
}

// excuse lets w wait for key no longer.
func (ws *waiters) excuse(w *waiter, key string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if _, ok := w.pending[key]; !ok {
		return
	}
	delete(w.pending, key)
	ws.removeLocked(key, w)
	if len(w.pending) == 0 {
		close(w.gone)
	}
}

// leave ends the waiting of w.
func (ws *waiters) leave(w *waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for k := range w.pending {
		ws.removeLocked(k, w)
	}
	clear(w.pending)
}

func (ws *waiters) removeLocked(key string, w *waiter) {
	ws.m[key] = slices.DeleteFunc(ws.m[key], func(o *waiter) bool { return o == w })
	if len(ws.m[key]) == 0 {
		delete(ws.m, key)
	}
}
