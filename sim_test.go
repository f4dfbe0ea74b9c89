package leasing_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/history"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

var (
	simSeeds = flag.Int("sim.seeds", 8, "how many seeds TestSimulation runs")
	simFirst = flag.Uint64("sim.first", 1, "the first of them")
	simDraw  = flag.String("sim.draw", "", "folder for pictures of histories that are not linearizable")
)

// TestSimulation runs several KVs and a plain client on one etcd in memory, in
// virtual time, while requests and replies are lost and late, links are cut,
// the watch lags, history is compacted, the leader stalls, and KVs are closed
// and opened. Afterwards every history must be linearizable, every value
// applied at most once, and no claim may be left.
func TestSimulation(t *testing.T) {
	for i := range *simSeeds {
		seed := *simFirst + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { simulate(t, seed) })
			if t.Failed() {
				t.Logf("to see it again, and in a picture: go test -run 'TestSimulation$' -sim.seeds 1 -sim.first %d -sim.draw . .", seed)
			}
		})
	}
}

// sim is one simulated run.
type sim struct {
	t     *testing.T
	srv   *memetcd.Server
	ttl   time.Duration
	share int         // of writes, in a hundred operations
	calm  atomic.Bool // no more faults
	clock atomic.Int64
	value atomic.Int64

	mu     sync.Mutex
	events map[string][]*clientv3.Event
	writes map[string][]history.Write
	reads  map[string][]history.Read
	nodes  []*node
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

var simKeys = []string{"a", "b", "c", "pair/1", "pair/2"}

func simulate(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	s := &sim{
		t: t, ttl: time.Duration(2+rng.IntN(4)) * time.Second, share: []int{2, 10, 40}[rng.IntN(3)],
		events: make(map[string][]*clientv3.Event),
		writes: make(map[string][]history.Write),
		reads:  make(map[string][]history.Read),
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
	plain := &node{name: "plain", cl: s.srv.NewClient("plain")}
	plain.kv = plain.cl.KV

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i, n := range append(slices.Clone(s.nodes), plain) {
		for j := range 2 {
			r := rand.New(rand.NewPCG(seed, 1000+uint64(10*i+j)))
			wg.Go(func() { s.work(ctx, r, n) })
		}
	}
	wg.Go(func() { s.break_(ctx, rand.New(rand.NewPCG(seed, 3))) })
	time.Sleep(60 * time.Second)
	stop()
	wg.Wait()

	s.calm.Store(true)
	for _, n := range s.nodes {
		n.conn.Heal()
		n.conn.DelayWatch(0)
	}
	time.Sleep(20 * time.Second) // everything late arrives, what was pending is done
	s.check(plain)
}

func (s *sim) now() int64 { return s.clock.Add(1) }

func (s *sim) open(n *node) clientv3.KV {
	kv, err := leasing.New(s.t.Context(), n.cl, leasing.Config{Prefix: claimPrefix, TTL: s.ttl})
	if err != nil {
		s.t.Errorf("%s: %v", n.name, err)
	}
	return kv
}

func (s *sim) record(_ int64, events []*mvccpb.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ev := range events {
		if key := string(ev.Kv.Key); !strings.HasPrefix(key, claimPrefix) {
			s.events[key] = append(s.events[key], (*clientv3.Event)(proto.Clone(ev).(*mvccpb.Event)))
		}
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
		switch rng.IntN(8) {
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
			n.current().(*leasing.KV).Close()
			n.conn.Heal()
			n.replace(s.open(n))
		}
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

// work does random operations through n until ctx ends.
func (s *sim) work(ctx context.Context, rng *rand.Rand, n *node) {
	var last int64 // the latest header revision of kv
	var kv clientv3.KV
	for sleep(ctx, time.Duration(rng.IntN(300))*time.Millisecond) {
		if now := n.current(); now != kv {
			kv, last = now, 0
		}
		opCtx, cancel := context.WithTimeout(ctx, time.Duration(1+rng.IntN(8000))*time.Millisecond)
		rev, err := s.op(opCtx, rng, n, kv)
		cancel()
		if err != nil {
			continue
		}
		if rev < last {
			s.t.Errorf("%s: header revision %d after %d", n.name, rev, last)
		}
		last = rev
	}
}

// op does one operation, records it, and returns its header's revision.
func (s *sim) op(ctx context.Context, rng *rand.Rand, n *node, kv clientv3.KV) (int64, error) {
	key := simKeys[rng.IntN(3)]
	kind := rng.IntN(60)
	if n.name != "plain" && rng.IntN(100) < s.share { // every writer has to take part in the protocol
		kind = 60 + rng.IntN(40)
	}
	val := fmt.Sprint(s.value.Add(1))
	call := s.now()
	switch {
	case kind < 50:
		resp, err := kv.Get(ctx, key)
		if err != nil {
			return 0, err
		}
		s.saw(n, key, call, (*pb.RangeResponse)(resp), resp.Header.Revision, true)
		return resp.Header.Revision, nil
	case kind < 60:
		resp, err := kv.Txn(ctx).Then(clientv3.OpGet("pair/1"), clientv3.OpGet("pair/2")).Commit()
		if err != nil {
			return 0, err
		}
		var got [2]string // less the mark of the key
		for i, r := range resp.Responses {
			s.saw(n, simKeys[3+i], call, r.GetResponseRange(), resp.Header.Revision, true)
			for _, kv := range r.GetResponseRange().Kvs {
				got[i] = string(kv.Value[2:])
			}
		}
		if got[0] != got[1] {
			s.t.Errorf("%s read half of a transaction: %q", n.name, got)
		}
		return resp.Header.Revision, nil
	case kind < 75:
		resp, err := kv.Put(ctx, key, val)
		if err != nil {
			return 0, s.wrote(n, call, val, 0, err, key)
		}
		return resp.Header.Revision, s.wrote(n, call, val, resp.Header.Revision, nil, key)
	case kind < 80:
		resp, err := kv.Delete(ctx, key)
		if err != nil {
			return 0, err
		}
		s.deleted(n, call, resp.Header.Revision, resp.Deleted > 0, key)
		return resp.Header.Revision, nil
	case kind < 83:
		resp, err := kv.Delete(ctx, "b", clientv3.WithRange("d"), clientv3.WithPrevKV())
		if err != nil {
			return 0, err
		}
		for _, kv := range resp.PrevKvs {
			s.deleted(n, call, resp.Header.Revision, true, string(kv.Key))
		}
		return resp.Header.Revision, nil
	case kind < 90:
		resp, err := kv.Txn(ctx).Then(clientv3.OpPut("pair/1", "1-"+val), clientv3.OpPut("pair/2", "2-"+val)).Commit()
		var rev int64
		if err == nil {
			rev = resp.Header.Revision
		}
		return rev, errors.Join(s.wrote(n, call, "1-"+val, rev, err, "pair/1"), s.wrote(n, call, "2-"+val, rev, err, "pair/2"))
	}
	// Read, and write if it is as expected: one of the two branches puts.
	other := simKeys[rng.IntN(3)]
	resp, err := kv.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(key), ">", int64(rng.IntN(3)))).
		Then(clientv3.OpGet(key), clientv3.OpPut(other, "t"+val)).
		Else(clientv3.OpGet(key), clientv3.OpPut(key, "e"+val)).
		Commit()
	if err != nil {
		return 0, errors.Join(s.wrote(n, call, "t"+val, 0, err, other), s.wrote(n, call, "e"+val, 0, err, key))
	}
	s.saw(n, key, call, resp.Responses[0].GetResponseRange(), resp.Header.Revision, false)
	if resp.Succeeded {
		return resp.Header.Revision, s.wrote(n, call, "t"+val, resp.Header.Revision, nil, other)
	}
	return resp.Header.Revision, s.wrote(n, call, "e"+val, resp.Header.Revision, nil, key)
}

// saw notes what a read returned, and whether it was alone, with no write.
func (s *sim) saw(n *node, key string, call int64, r *pb.RangeResponse, header int64, alone bool) {
	read := history.Read{Client: n.name, Call: call, Ret: s.now(), Header: header, AsOf: alone}
	if len(r.Kvs) > 0 {
		read.KV = r.Kvs[0]
	}
	if r.Count != int64(len(r.Kvs)) {
		s.t.Errorf("%s: count %d of %d keys", n.name, r.Count, len(r.Kvs))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads[key] = append(s.reads[key], read)
}

// wrote notes a put, and returns err.
func (s *sim) wrote(n *node, call int64, val string, rev int64, err error, key string) error {
	w := history.Write{Client: n.name, Call: call, Ret: s.now(), Value: val, Err: err, Rev: rev}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes[key] = append(s.writes[key], w)
	return err
}

// deleted notes a deletion that was acknowledged.
func (s *sim) deleted(n *node, call, rev int64, changed bool, key string) {
	w := history.Write{Client: n.name, Call: call, Ret: s.now(), Delete: true, Changed: changed, Rev: rev}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes[key] = append(s.writes[key], w)
}

// check looks at what has been noted, after one last read of every key by
// every node, and at what is left when the KVs have been closed.
func (s *sim) check(plain *node) {
	ctx := context.Background()
	for _, n := range append(slices.Clone(s.nodes), plain) {
		for _, key := range simKeys {
			call := s.now()
			resp, err := n.kv.Get(ctx, key)
			if err != nil {
				s.t.Fatalf("%s does not heal: %v", n.name, err)
			}
			s.saw(n, key, call, (*pb.RangeResponse)(resp), resp.Header.Revision, true)
		}
	}
	for _, n := range s.nodes {
		n.kv.(*leasing.KV).Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range simKeys {
		if err := history.Check(s.events[key], s.writes[key], s.reads[key]); err != nil {
			s.t.Errorf("key %q: %v", key, err)
			s.draw(key, err)
		}
	}
	time.Sleep(2 * s.ttl) // claims of leases whose grant got no answer
	left, err := plain.kv.Get(ctx, claimPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || len(left.Kvs) > 0 {
		s.t.Errorf("claims are left: %v, %v", left, err)
	}
}

// draw writes porcupine's picture of a history that is not linearizable.
func (s *sim) draw(key string, err error) {
	var v *history.Violation
	if *simDraw == "" || !errors.As(err, &v) {
		return
	}
	name := filepath.Join(*simDraw, "history-"+strings.ReplaceAll(key, "/", "-")+".html")
	f, err := os.Create(name)
	if err == nil {
		err = errors.Join(v.Picture(f), f.Close())
	}
	s.t.Logf("key %q is drawn in %s (%v)", key, name, err)
}
