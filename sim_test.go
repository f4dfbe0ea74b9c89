package leasing_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/history"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

var (
	simSeeds = flag.Uint64("sim.seeds", 8, "how many seeds TestSimulation runs")
	simFirst = flag.Uint64("sim.first", 1, "the first of them")
	simFor   = flag.Duration("sim.for", 0, "for how long it runs, instead of how many seeds")
	simDraw  = flag.String("sim.draw", os.TempDir(), "folder for pictures of histories that are not linearizable")
)

// TestSimulation runs several KVs and a plain client on one etcd in memory, in
// virtual time, while requests and replies are lost and late, links are cut,
// the watch lags, history is compacted, the leader stalls, keys are crowded out,
// prefetched and released, KVs are closed and opened, and an operator takes claims away. Afterwards every
// history must be linearizable, every write applied at most once, and no claim
// may be left.
//
// A seed decides everything but the order in which goroutines that are ready at
// the same instant get to run.
func TestSimulation(t *testing.T) {
	began, next := time.Now(), atomic.Uint64{}
	together(runtime.GOMAXPROCS(0), func(int) {
		for !t.Failed() {
			n := next.Add(1)
			if *simFor == 0 && n > *simSeeds || *simFor > 0 && time.Since(began) > *simFor {
				next.Add(^uint64(0))
				return
			}
			seed := *simFirst + n - 1
			t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { simulateAndJudge(t, seed) })
		}
	})
	t.Logf("%d seeds in %v", next.Load(), time.Since(began).Round(time.Second))
}

func simulateAndJudge(t *testing.T, seed uint64) {
	defer func() {
		if t.Failed() {
			t.Logf("again: go test -run 'TestSimulation$' -count 20 -failfast -sim.seeds 1 -sim.first %d .", seed)
		}
	}()
	var s *sim
	synctest.Test(t, func(t *testing.T) { s = simulate(t, seed) })
	if s != nil {
		s.judge(t) // on a clock that runs
	}
}

// sim is one simulated run.
type sim struct {
	t     *testing.T
	srv   *memetcd.Server
	ttl   time.Duration
	limit int   // of keys that a KV owns
	after int   // how many reads it claims a key
	bytes int64 // of what they take
	idle  time.Duration
	data  []string    // what is watched for strangers, of which there are none
	share int         // of writes, in a hundred operations
	calm  atomic.Bool // no more faults
	clock atomic.Int64
	value atomic.Int64
	lease atomic.Int64 // for keys to carry
	plain *node
	nodes []*node

	mu      sync.Mutex // guards the rest
	events  map[string][]*clientv3.Event
	writes  map[string][]history.Write
	reads   map[string][]history.Read
	applied map[int64][]int64 // the revisions that each call has made
	unknown []*act            // writes that gave an error
	doubts  []doubt
	kvs     []*leasing.KV // all that were opened
}

// doubt is what an operator caused by taking a claim away: for a while its
// owner may still read what was true before.
type doubt struct {
	key   string // any if empty
	since int64
	until time.Time
}

// doubtLocked returns since when what an operation reads of key may have been
// true, or zero if it must be true at some time during the operation.
func (s *sim) doubtLocked(key string, began time.Time) (since int64) {
	for _, d := range s.doubts {
		if (d.key == "" || d.key == key) && began.Before(d.until) && (since == 0 || d.since < since) {
			since = d.since
		}
	}
	return since
}

// node is a client with the KV that is open on it.
type node struct {
	name string
	cl   *clientv3.Client
	conn *memetcd.Conn

	mu sync.Mutex // guards kv, which is replaced while operations are under way
	kv clientv3.KV
}

func (n *node) current() clientv3.KV {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kv
}

func (n *node) replace(kv clientv3.KV) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.kv = kv
}

var simKeys = []string{"a", "b", "c", "d", "e"}

func simulate(t *testing.T, seed uint64) *sim {
	rng := rand.New(rand.NewPCG(seed, 2))
	s := &sim{
		t: t, ttl: time.Duration(2+rng.IntN(4)) * time.Second, share: []int{2, 10, 40}[rng.IntN(3)],
		limit:  []int{0, 0, 2}[rng.IntN(3)],
		after:  []int{0, 0, 2}[rng.IntN(3)],
		bytes:  []int64{0, 0, 0, 0, 700}[seed%5],
		idle:   []time.Duration{0, 0, 0, time.Second}[seed%4],
		data:   [][]string{nil, nil, {""}}[seed%3],
		events: make(map[string][]*clientv3.Event),
		writes: make(map[string][]history.Write),
		reads:  make(map[string][]history.Read),

		applied: make(map[int64][]int64),
	}
	s.srv = memetcd.New(memetcd.Options{ClockRate: 1 + rng.Float64()*0.04, Latency: time.Duration(rng.IntN(3)) * time.Millisecond})
	defer s.srv.Close()
	s.srv.OnApply(s.record)
	for i := range 3 + rng.IntN(3) {
		n := &node{name: fmt.Sprint("kv", i)}
		n.cl, n.conn = s.srv.Client(n.name)
		n.kv = s.open(n)
		n.conn.Intercept(s.fate(rand.New(rand.NewPCG(seed, 100+uint64(i))), rng.IntN(3)*10))
		s.nodes = append(s.nodes, n)
	}
	s.plain = &node{name: "plain", cl: s.srv.NewClient("plain")}
	s.plain.kv = s.plain.cl.KV

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i, n := range append(slices.Clone(s.nodes), s.plain) {
		for j := range 2 {
			r := rand.New(rand.NewPCG(seed, 1000+uint64(10*i+j)))
			wg.Go(func() { s.work(ctx, r, n) })
		}
	}
	wg.Go(func() { s.break_(ctx, rand.New(rand.NewPCG(seed, 3))) })
	if rng.IntN(4) == 0 {
		wg.Go(func() { s.operate(ctx, rand.New(rand.NewPCG(seed, 4))) })
	}
	time.Sleep(60 * time.Second)
	stop()
	wg.Wait()

	s.calm.Store(true)
	for _, n := range s.nodes {
		n.conn.Heal()
		n.conn.DelayWatch(0)
	}
	time.Sleep(20 * time.Second) // everything late arrives, what was pending is done
	s.end()
	return s
}

func (s *sim) now() int64 { return s.clock.Add(1) }

func (s *sim) open(n *node) clientv3.KV {
	kv, err := leasing.New(s.t.Context(), n.cl, leasing.Config{Prefix: claimPrefix, TTL: s.ttl, MaxKeys: s.limit, MaxBytes: s.bytes, IdleTimeout: s.idle, ClaimAfter: s.after, WatchData: s.data})
	if err != nil {
		s.t.Errorf("%s: %v", n.name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kvs = append(s.kvs, kv)
	return kv
}

func (s *sim) record(ctx context.Context, rev int64, events []*mvccpb.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := false
	for _, ev := range events {
		if key := string(ev.Kv.Key); !strings.HasPrefix(key, claimPrefix) {
			s.events[key] = append(s.events[key], (*clientv3.Event)(ev))
			data = true
		}
	}
	if call, ok := ctx.Value(simCall{}).(int64); ok && data {
		s.applied[call] = append(s.applied[call], rev)
	}
}

// fate decides what becomes of each request; rate is how many in a hundred
// come to harm.
func (s *sim) fate(rng *rand.Rand, rate int) memetcd.Interceptor {
	var mu sync.Mutex
	return func(ctx context.Context, call *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
		mu.Lock()
		harm, kind, d := rng.IntN(100) < rate, rng.IntN(5), time.Duration(rng.IntN(4000))*time.Millisecond
		mu.Unlock()
		if s.calm.Load() || !harm || call.Method == memetcd.MethodWatch {
			return do(ctx)
		}
		switch kind {
		case 0: // the request is lost
			return nil, memetcd.ErrLost
		case 1: // the reply is lost
			if _, err := do(ctx); err != nil {
				return nil, err
			}
			return nil, memetcd.ErrLost
		case 2: // the reply is late
			r, err := do(ctx)
			time.Sleep(d)
			return r, err
		}
		// the request is late, perhaps later than its caller waits
		time.Sleep(d)
		return do(context.WithoutCancel(ctx))
	}
}

// break_ breaks things now and then.
func (s *sim) break_(ctx context.Context, rng *rand.Rand) {
	for sleep(ctx, time.Duration(rng.IntN(6000))*time.Millisecond) {
		n := s.nodes[rng.IntN(len(s.nodes))]
		switch rng.IntN(9) {
		case 0, 1:
			n.conn.Cut([]memetcd.Direction{memetcd.Requests, memetcd.Replies, memetcd.Both}[rng.IntN(3)])
			sleep(ctx, time.Duration(rng.IntN(9000))*time.Millisecond)
			n.conn.Heal()
		case 2:
			n.conn.Reset()
		case 3:
			n.conn.DelayWatch(time.Duration(rng.IntN(2000)) * time.Millisecond)
		case 4:
			s.srv.Stall(time.Duration(rng.IntN(3000)) * time.Millisecond)
		case 5:
			_ = s.srv.Compact(s.srv.Revision()) // it may be compacted already
		case 6: // a watch that lags behind a compaction
			n.conn.Cut(memetcd.Both)
			sleep(ctx, time.Second)
			n.conn.Reset()
			_ = s.srv.Compact(s.srv.Revision())
			n.conn.Heal()
		case 7:
			if l, err := s.plain.cl.Grant(ctx, 5); err == nil {
				s.lease.Store(int64(l.ID))
			}
		case 8:
			n.current().(*leasing.KV).Close()
			n.conn.Heal()
			n.replace(s.open(n))
		}
	}
}

// operate takes claims away now and then, as nobody should, by hand.
func (s *sim) operate(ctx context.Context, rng *rand.Rand) {
	for sleep(ctx, time.Duration(rng.IntN(15000))*time.Millisecond) {
		d := doubt{since: s.now()}
		if rng.IntN(2) == 0 {
			d.key = simKeys[rng.IntN(len(simKeys))]
		}
		s.mu.Lock()
		s.doubts = append(s.doubts, d)
		i := len(s.doubts) - 1
		s.doubts[i].until = time.Now().Add(time.Hour)
		s.mu.Unlock()
		if d.key != "" {
			_, _ = s.plain.cl.Delete(ctx, claimPrefix+d.key)
		} else if all, err := s.plain.cl.Leases(ctx); err == nil && len(all.Leases) > 0 {
			_, _ = s.plain.cl.Revoke(ctx, all.Leases[rng.IntN(len(all.Leases))].ID)
		}
		// The watch tells within its delay, unless the link is cut; then the
		// deadline passes.
		s.mu.Lock()
		s.doubts[i].until = time.Now().Add(s.ttl + 3*time.Second)
		s.mu.Unlock()
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// end has every node read every key once more, closes the KVs, and looks at
// what is left then.
func (s *sim) end() {
	ctx := context.Background()
	for _, n := range append(slices.Clone(s.nodes), s.plain) {
		for _, key := range simKeys {
			a := &act{sim: s, kv: n.kv, client: n.name, call: s.now(), began: time.Now()}
			resp, err := n.kv.Get(ctx, key)
			if err != nil {
				s.t.Fatalf("%s does not heal: %v", n.name, err)
			}
			a.saw(key, resp.Kvs, resp.Header.Revision, true)
		}
	}
	for _, n := range s.nodes {
		n.kv.(*leasing.KV).Close()
	}
	s.mu.Lock()
	if len(s.doubts) == 0 { // else a key was written that somebody else believed to own
		for _, kv := range s.kvs {
			if n := kv.Stats().Strangers; n > 0 {
				s.t.Errorf("%d writes are taken for strangers', but there are none", n)
			}
		}
	}
	s.mu.Unlock()
	time.Sleep(2 * s.ttl) // claims of leases whose grant got no answer
	left, err := s.plain.kv.Get(ctx, claimPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || len(left.Kvs) > 0 {
		s.t.Errorf("claims are left: %v, %v", left, err)
	}
}

// judge judges what has been noted: each key by itself, and all together.
func (s *sim) judge(t *testing.T) {
	s.settleUnknown(t)
	t.Logf("%d operations, %d calls with writes applied, %d writes of unknown outcome", s.clock.Load(), len(s.applied), len(s.unknown))
	var keys []history.Key
	for _, name := range simKeys {
		key := history.Key{Name: name, Events: s.events[name], Writes: s.writes[name], Reads: s.reads[name]}
		if err := history.Check(key); err != nil {
			t.Error(err)
			draw(t, err)
		}
		keys = append(keys, key)
	}
	if err := history.Check(keys...); err != nil {
		t.Error(err)
		draw(t, err)
	}
}

// draw has porcupine draw a history that is not linearizable. The picture is
// left for whoever looks into it.
func draw(t *testing.T, err error) {
	var v *history.Violation
	if !errors.As(err, &v) {
		return
	}
	f, err := os.CreateTemp(*simDraw, "history-*.html")
	if err != nil {
		t.Log(err)
		return
	}
	t.Logf("drawn in %q: %v", f.Name(), errors.Join(v.Picture(f), f.Close()))
}
