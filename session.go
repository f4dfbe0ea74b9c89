package leasing

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"
)

// session is this KV's standing with etcd: the leases that its claims hang on
// and the watch on the claim prefix. It sends claims and yields, answers
// REVOKEs, and tells waiting writers that a claim is gone. It never decides
// who owns a key: that is for the cache.
//
// It has eight goroutines, whatever the number of keys, one more for each prefix of
// data that is watched, one for an observer of events, one if a context bounds its
// life, and a few for the calls of one of them; all run under its own context, never
// a caller's, and end with close. A stream that a caller reads has one more, until it
// has been read.
type session struct {
	kv      clientv3.KV
	watcher clientv3.Watcher
	lessor  clientv3.Lease
	cache   *cache
	layout  layout
	log     *zap.Logger

	data      []string           // prefixes of data to watch
	servers   statuser           // nil if nobody can be asked
	endpoints []string           // of the servers
	ttl       int64              // of leases to be granted, in seconds
	perLease  int                // the most claims on one lease
	maxBatch  int                // the most clauses in one request
	maxAll    int                // the most in one that is for all of them or none, if a clause has two comparisons
	idle      time.Duration      // how long a key may go unread; 0 is no bound
	handed    clientv3.LeaseID   // bounds the life of the session, if not zero
	life      context.Context    // so does this
	ctx       context.Context    // ends with close
	stop      context.CancelFunc // ends ctx
	wg        sync.WaitGroup
	quit      chan struct{} // closed by close when nothing more happens

	keeping     context.Context    // ctx, of keepLoop alone
	stopKeeping context.CancelFunc // ends keeping
	keepers     sync.WaitGroup

	ready     chan struct{} // closed when claims may begin, or are refused for now
	readyOnce sync.Once
	watched   []chan struct{} // closed when the watch on a prefix of data runs, or has failed once

	claims  queue[*claim]
	yields  queue[yield]
	asks    queue[string]
	asking  atomic.Int64 // how many asks are queued or under way
	askTook atomic.Int64 // how long the latest of them did; 0 if there was none
	waiters waiters

	kick  chan struct{} // wakes keepLoop
	born  time.Time
	heard atomic.Int64 // when the watch last gave a sign of life, in nanoseconds since born
	name  string       // of the stream that the watch is on

	jeopardies seldom        // in the log
	strangers  seldom        // likewise
	told       chan struct{} // closed when the observer has been told of everything; nil if there is none

	// mu guards the rest. No call is made under it but to the leases and the
	// cache.
	mu       sync.Mutex
	ears     bool               // the watch runs (I14)
	relisten context.CancelFunc // ends the watch that runs, so that another is made
	deafened bool               // the watch was refused, and that has been logged
	denials  bool               // a claim was refused for lack of rights, and that has been logged
	ended    bool               // nothing is claimed any more
	trouble  error              // what went wrong last with the watch, a grant or a claim, since the watch or a claim went well
	standing Event              // the latest of the session
	leases   []*lease
	ids      map[clientv3.LeaseID]struct{} // every lease of ours that may hold claims
	retired  []clientv3.LeaseID            // leases to be revoked
	hold     time.Time                     // nothing is claimed before
	pace     backoff                       // of hold
	sending  [pipeline]time.Time           // when the batches of claims under way were sent; zero if there is none
}

const (
	claimsPerLease     = 1000 // etcd deletes a lease's keys in one apply, 5.5 µs each
	claimsPerAuthLease = 100  // with auth on, a claim checks every key of its lease

	// maxBatch claims, yields or revokes go into one transaction, if etcd's
	// --max-txn-ops, less the two that each of them nests, allows it.
	maxBatch = 100
	// pipeline is how many batches of claims, of yields, and of REVOKEs are under
	// way at the same time: etcd syncs one to disk while it applies another.
	pipeline = 2

	// callTimeout bounds a request of the session's own.
	callTimeout = 5 * time.Second
	// patience is how long anybody waits for the reply to a claim before what
	// can be done without it is done without it.
	patience = time.Second
	// closeTimeout, and closeLeaseTimeout for each lease, bound close.
	closeTimeout      = 2500 * time.Millisecond
	closeLeaseTimeout = 20 * time.Millisecond
	// deafness is how long the watch may say nothing while renewals succeed.
	deafness = 10 * time.Second
)

func (s *session) start() {
	s.kick = make(chan struct{}, 1)
	s.ready = make(chan struct{})
	s.quit = make(chan struct{})
	s.claims.more = make(chan struct{}, 1)
	s.yields.more = make(chan struct{}, 1)
	s.asks.more = make(chan struct{}, 1)
	s.ids = make(map[clientv3.LeaseID]struct{})
	s.pace = backoff{first: 100 * time.Millisecond, last: 10 * time.Second}
	s.relisten = func() {}
	s.born, s.name = time.Now(), strconv.FormatUint(rand.Uint64(), 36)
	s.keeping, s.stopKeeping = context.WithCancel(s.ctx)
	s.waiters.m = make(map[string][]*waiter)
	if s.cache.events != nil {
		s.told = make(chan struct{})
		go s.observe()
	}
	if s.life.Done() != nil {
		s.wg.Go(s.followLife)
	}
	s.wg.Go(s.listenLoop)
	for i := range pipeline {
		s.wg.Go(func() { s.claimLoop(i) })
		s.wg.Go(s.yieldLoop)
		s.wg.Go(s.askLoop)
	}
	for _, prefix := range s.data {
		begun := make(chan struct{})
		s.watched = append(s.watched, begun)
		s.wg.Go(func() { s.dataLoop(prefix, sync.OnceFunc(func() { close(begun) })) })
	}
	if s.servers != nil {
		s.wg.Go(s.checkServers)
	}
	s.keepers.Go(s.keepLoop)
}

// voice is the context of the watch, and of what is asked of it. etcd's client
// puts watches whose contexts bear the same metadata on one stream, and tells
// all of them of the progress that one asks for; the name keeps ours apart from
// those of the application.
func (s *session) voice(ctx context.Context) context.Context {
	return clientv3.WithRequireLeader(metadata.AppendToOutgoingContext(ctx, "leasing-session", s.name))
}

// maxCalls is how many calls of callAll are under way at once.
const maxCalls = 8

// callAll makes calls of the session's own, each within the timeout, and
// waits for them.
func (s *session) callAll(calls []func(context.Context), timeout time.Duration) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxCalls)
	for _, call := range calls {
		slots <- struct{}{}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(s.keeping, timeout)
			defer cancel()
			call(ctx)
			<-slots
		})
	}
	wg.Wait()
}

// staggered does f for each of n, and waits for all. The next begins when one has ended
// and as much time has passed again, but after pace in any case, side by side with those
// that take long. Once f has reported false, no more begin.
func staggered(n int, pace time.Duration, f func(i int) bool) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var over atomic.Bool
	for i := 0; i < n && !over.Load(); i++ {
		done, began := make(chan struct{}), time.Now()
		wg.Go(func() {
			defer close(done)
			if !f(i) {
				over.Store(true)
			}
		})
		if i == n-1 {
			break
		}
		t := time.NewTimer(pace)
		select {
		case <-done:
			took := time.Since(began)
			t.Reset(max(0, min(took, pace-took)))
			<-t.C
		case <-t.C:
		}
	}
}

// close ends every goroutine and then hands everything over: it revokes the
// leases, so that the next writer goes straight through.
//
// Invariant: I7. What is released has been forgotten.
func (s *session) close() {
	s.stopKeeping() // before the watch ends: to ask one for progress that is gone makes a stream that nobody ends
	s.keepers.Wait()
	s.stop()
	s.wg.Wait()
	s.finish("the KV is closed")
	s.refuseQueued()
	close(s.quit)
	bound := closeTimeout + time.Duration(len(s.retired))*closeLeaseTimeout
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), bound)
	defer cancel()
	s.revokeRetired(ctx)
	if s.told != nil {
		select {
		case <-s.told:
		case <-ctx.Done(): // the application's own affair
		}
	}
}

// observe tells the observer of events, to the end of them.
func (s *session) observe() {
	defer close(s.told)
	s.cache.events.deliver(s.quit)
}

// observed passes a stream of replies on. The header is in the last of them.
// Like the stream itself it is there until it has been read to its end.
func (s *session) observed(in clientv3.GetStreamChan) clientv3.GetStreamChan {
	out := make(chan clientv3.RangeStreamResponse, 1)
	go func() {
		defer close(out)
		for r := range in {
			if r.RangeResponse != nil {
				s.cache.observe(r.Header)
			}
			out <- r
		}
	}()
	return out
}

func (s *session) nudge() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// sleep waits for d, and reports false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
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
func (s *session) reset(why string) {
	s.mu.Lock()
	leases, ends := s.leases, s.ended
	s.leases = nil
	endAll(leases)
	s.mu.Unlock()
	s.cache.dropAll(ends)
	for _, l := range leases {
		s.retire(l)
	}
	s.judge(why)
}

// endAll ends leases under session.mu, before anybody can judge that none is left.
func endAll(leases []*lease) {
	for _, l := range leases {
		l.end()
	}
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
			l.end() // before anybody can judge that none is left
			found = true
			break
		}
	}
	s.mu.Unlock()
	if found {
		s.log.Info("leasing: lease is over, its keys are dropped", zap.String("why", why), leaseField(l.id))
		s.retire(l)
		s.judge(why)
	}
}
