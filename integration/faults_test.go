package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// fltScene is what a variation of TestLinearizable can break.
type fltScene struct {
	t      *testing.T
	etcd   *etcdtest.Cluster
	plain  *clientv3.Client
	relays []*etcdtest.Relay
	kvs    []clientv3.KV
	h      *fltHistory
	ctx    context.Context // ends with the variation
}

// pause waits for up to d, and reports whether to go on.
func (s *fltScene) pause(d time.Duration) bool {
	select {
	case <-time.After(d/2 + rand.N(d/2)):
	case <-s.ctx.Done():
	}
	return s.ctx.Err() == nil
}

func (s *fltScene) relay() *etcdtest.Relay { return s.relays[rand.IntN(len(s.relays))] }

// resets ends connections.
func (s *fltScene) resets() {
	for s.pause(300 * time.Millisecond) {
		s.relay().Reset()
	}
}

// cuts cuts one owner off, one way or both, for longer than its leases last.
// What is under way then may be lost, or arrive late.
func (s *fltScene) cuts() {
	ways := [][]etcdtest.Direction{nil, {etcdtest.Requests}, {etcdtest.Replies}}
	for i := 0; s.pause(400 * time.Millisecond); i++ {
		r := s.relay()
		r.Cut(ways[i%len(ways)]...)
		s.pause(2500 * time.Millisecond)
		if rand.IntN(2) == 0 {
			r.Reset()
		}
		r.Heal()
	}
}

// delays makes replies up to two seconds late, and then the links go down.
func (s *fltScene) delays() {
	for s.pause(400 * time.Millisecond) {
		r := s.relay()
		r.Delay(rand.N(2*time.Second), etcdtest.Replies)
		s.pause(1500 * time.Millisecond)
		r.Cut(etcdtest.Requests)
		s.pause(1500 * time.Millisecond)
		r.Delay(0)
		r.Heal()
	}
}

// compactions come while one watch lags.
func (s *fltScene) compactions() {
	for s.pause(300 * time.Millisecond) {
		r := s.relay()
		lag := rand.IntN(2) == 0
		if lag {
			r.Cut()
			s.pause(500 * time.Millisecond)
		}
		// Not beyond what the oracle has seen.
		rev := s.h.told.Load()
		if _, err := s.plain.Compact(s.ctx, rev); err != nil && s.ctx.Err() == nil && !errors.Is(err, rpctypes.ErrCompacted) {
			s.t.Errorf("compact at %d: %v", rev, err)
		}
		if lag {
			r.Reset()
			r.Heal()
		}
	}
}

// leaders come and go: in good order, deposed without knowing it, and killed.
func (s *fltScene) leaders() {
	for i := 0; s.pause(700 * time.Millisecond); i++ {
		leader := s.etcd.Leader()
		switch i % 3 {
		case 0:
			s.etcd.Isolate(leader)
			s.pause(1500 * time.Millisecond)
			s.etcd.Rejoin(leader)
		case 1:
			s.etcd.Kill(leader)
			s.pause(time.Second)
			s.etcd.Restart(leader)
		case 2:
			s.etcd.MoveLeader((leader + 1) % s.etcd.Size())
		}
	}
}

// Several KVs are linearizable, on a client each and on one for all,
// whatever happens between them and etcd.
func TestLinearizable(t *testing.T) {
	for _, v := range []struct {
		name    string
		members int
		oneLink bool // all on one client
		faults  func(*fltScene)
		ttl     time.Duration
		times   int // how many times the flag's duration it runs
	}{
		{name: "calm", ttl: 5 * time.Second, times: 1},
		{name: "calm,one client", ttl: 5 * time.Second, oneLink: true, times: 1},
		{name: "connections dropped", faults: (*fltScene).resets, ttl: 2 * time.Second, times: 1},
		{name: "connections dropped,one client", faults: (*fltScene).resets, ttl: 2 * time.Second, oneLink: true, times: 1},
		{name: "owner cut off", faults: (*fltScene).cuts, ttl: time.Second, times: 3},
		{name: "replies late", faults: (*fltScene).delays, ttl: 3 * time.Second, times: 3},
		{name: "history compacted", faults: (*fltScene).compactions, ttl: 2 * time.Second, times: 1},
		{name: "leader lost", members: 3, faults: (*fltScene).leaders, ttl: 2 * time.Second, times: 2},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			s := &fltScene{t: t, etcd: etcdtest.Start(t, etcdtest.QuickTicks(), etcdtest.Members(max(v.members, 1)))}
			var err error
			if s.plain, err = s.etcd.NewClient(s.etcd.Endpoints()); err != nil {
				t.Fatal(err)
			}
			s.h = fltRecord(t, s.plain)
			var sent etcdtest.Counter
			var cl *clientv3.Client
			kvs := map[string]clientv3.KV{"plain": s.plain}
			for i := range 3 {
				if cl == nil || !v.oneLink {
					r := s.etcd.Relay(i % s.etcd.Size())
					s.relays = append(s.relays, r)
					cl = s.etcd.ClientVia(r, sent.Option(), fltNotices)
				}
				s.kvs = append(s.kvs, fltOpen(t, cl, v.ttl))
				kvs[fmt.Sprint("kv", i)] = s.kvs[i]
			}
			timeout, local := 3*time.Second, 1 // reads from memory that there must be
			if v.faults == nil {
				timeout, local = fltPatience, 100
			}
			work, stop := context.WithCancel(t.Context())
			defer stop()
			var cancel context.CancelFunc
			s.ctx, cancel = context.WithTimeout(work, time.Duration(v.times)*(*fltDuration))
			defer cancel()
			var wg sync.WaitGroup
			for i, kv := range s.kvs {
				s.h.run(work, &wg, fltLoad{name: fmt.Sprint("kv", i), kv: kv, readers: 2, writers: 1, open: true, timeout: timeout})
			}
			// A plain client that writes would be outside the protocol.
			s.h.run(work, &wg, fltLoad{name: "plain", kv: s.plain, readers: 1, timeout: timeout})
			if v.faults != nil {
				v.faults(s)
			} else {
				<-s.ctx.Done()
			}
			for _, r := range s.relays {
				r.Delay(0)
				r.Heal()
			}
			// With fewer it would prove nothing.
			fltUntil(t, fmt.Sprintf("%d reads come from memory", local), func() bool { return s.h.localReads() >= local })
			stop()
			wg.Wait()
			s.h.check(s.plain, kvs)
			t.Logf("%d point reads, %d of them without a request, %v", s.h.gets, s.h.local, &sent)
		})
	}
}

// A write whose reply is lost is not sent again, is there once, and
// is what the next reads see.
func TestUnknownOutcome(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	relay := etcd.Relay(0)
	var spy fltWrites
	var sentA, sentB etcdtest.Counter
	a := fltOpen(t, etcd.ClientVia(relay, spy.option(), sentA.Option()), 5*time.Second)
	b := fltOpen(t, etcd.Client(0, sentB.Option()), 5*time.Second)
	look := func(key string) *mvccpb.KeyValue {
		resp, err := plain.Get(fltContext(t), key)
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Kvs) == 0 {
			return new(mvccpb.KeyValue)
		}
		return resp.Kvs[0]
	}

	put := func(ctx context.Context, key string) error {
		_, err := a.Put(ctx, key, "new")
		return err
	}
	txn := func(ctx context.Context, key string) error {
		_, err := a.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", "old")).
			Then(clientv3.OpPut(key, "new"), clientv3.OpPut("beside", "x")).Commit()
		return err
	}
	del := func(ctx context.Context, key string) error {
		_, err := a.Delete(ctx, key)
		return err
	}
	delRange := func(ctx context.Context, key string) error {
		_, err := a.Delete(ctx, key, clientv3.WithPrefix())
		return err
	}
	free := func(string) {}
	own := func(key string) { fltOwn(t, a, &sentA, key) }
	foreign := func(key string) { fltOwn(t, b, &sentB, key) }
	for i, tt := range []struct {
		name    string
		prepare func(key string)
		write   func(ctx context.Context, key string) error
		want    string
		version int64
		sends   int64 // requests that may write the key: one more if the first is refused
	}{
		{"put of an unclaimed key", free, put, "new", 2, 1},
		{"put of an owned key", own, put, "new", 2, 1},
		{"put of a foreign key", foreign, put, "new", 2, 2},
		{"transaction on an unclaimed key", free, txn, "new", 2, 1},
		{"transaction on an owned key", own, txn, "new", 2, 1},
		{"transaction on a foreign key", foreign, txn, "new", 2, 2},
		{"deletion of an unclaimed key", free, del, "", 0, 1},
		{"deletion of an owned key", own, del, "", 0, 1},
		{"deletion of a foreign key", foreign, del, "", 0, 2},
		{"deletion of a range", own, delRange, "", 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := fmt.Sprint("k", i)
			fltPut(t, b, key, "old")
			// The client must be connected again.
			fltUntil(t, "a is back", func() bool { _, err := a.Get(fltContext(t), "other"); return err == nil })
			tt.prepare(key)
			// Replies get lost from the request on that is to be applied: what comes
			// before it, to take the key over, is answered.
			// If a knows of b's claim by then, it does not send the write to be refused.
			var last atomic.Int64
			spy.watch(key, func(n int64) {
				if n == tt.sends || tt.sends > 1 && look(fltPrefix+key).CreateRevision == 0 {
					relay.Cut(etcdtest.Replies)
					last.CompareAndSwap(0, n)
				}
			})
			var err error
			var wg sync.WaitGroup
			wg.Go(func() { err = tt.write(fltContext(t), key) })
			fltUntil(t, "the write is applied", func() bool { return string(look(key).Value) == tt.want })
			relay.Reset()
			relay.Heal()
			wg.Wait()
			if err == nil {
				t.Error("a write whose reply was lost has succeeded")
			}
			after := look(key)
			fltAgree(t, key, tt.want, a, a)
			// What had to be done about it has been done when the key can be owned
			// again.
			fltOwn(t, a, &sentA, key)
			fltAgree(t, key, tt.want, a, b, a)
			if n := spy.n.Load(); n != last.Load() {
				t.Errorf("sent %d times, not %d", n, last.Load())
			}
			if kv := look(key); string(kv.Value) != tt.want || kv.Version != tt.version || kv.ModRevision != after.ModRevision {
				t.Errorf("%v, which was %v, is not %q at version %d", kv, after, tt.want, tt.version)
			}
		})
	}
}

// A write that arrives when its caller has long given up is seen by
// the next reads, or by none.
func TestLateWrite(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	relay := etcd.Relay(0)
	h := fltRecord(t, plain)
	var sent etcdtest.Counter
	a := fltOpen(t, etcd.ClientVia(relay, sent.Option()), 5*time.Second)
	b := fltOpen(t, etcd.Client(0), 5*time.Second)
	for i := range 5 {
		if _, err := h.put(fltContext(t), "a", a, "a", fmt.Sprint("in time-", i)); err != nil { // takes it from b
			t.Fatal(err)
		}
		fltOwn(t, a, &sent, "a")
		relay.Cut(etcdtest.Requests)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := h.put(ctx, "a", a, "a", fmt.Sprint("late-", i))
		cancel()
		if err == nil {
			t.Fatal("a put through a cut link has succeeded")
		}
		relay.Heal()
		for _, kv := range []clientv3.KV{a, b, a} {
			call := h.now()
			resp, err := kv.Get(fltContext(t), "a")
			if err != nil {
				t.Fatal(err)
			}
			h.saw("reader", call, resp.Header.Revision, resp.Kvs, "a")
		}
	}
	h.check(plain, map[string]clientv3.KV{"a": a, "b": b, "plain": plain})
}

// With the NOSPACE alarm on, puts are refused and leave the cache
// right; deletions work.
func TestNoSpace(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []etcdtest.Option
		fill func(t *testing.T, etcd *etcdtest.Cluster)
	}{
		{"alarm", nil, func(_ *testing.T, etcd *etcdtest.Cluster) { etcd.SetNoSpace(true) }},
		{"quota", []etcdtest.Option{etcdtest.Quota(1 << 20)}, func(t *testing.T, etcd *etcdtest.Cluster) {
			plain := etcd.Client(0)
			var err error
			for i := 0; i < 100 && err == nil; i++ {
				_, err = plain.Put(t.Context(), "large", strings.Repeat("x", 64<<10))
			}
			if !errors.Is(err, rpctypes.ErrNoSpace) {
				t.Fatalf("puts beyond the quota: %v", err)
			}
			// The alarm is raised after the refusal.
			fltUntil(t, "the alarm is on", func() bool {
				resp, err := plain.AlarmList(fltContext(t))
				return err == nil && len(resp.Alarms) > 0
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			etcd := etcdtest.Start(t, append(tt.opts, etcdtest.QuickTicks())...)
			plain := etcd.Client(0)
			var sentA, sentB etcdtest.Counter
			a := fltOpen(t, etcd.Client(0, sentA.Option()), 5*time.Second)
			b := fltOpen(t, etcd.Client(0, sentB.Option()), 5*time.Second)
			keys := []string{"unclaimed", "owned", "range/1", "range/2"}
			for _, key := range append(keys, "foreign") {
				fltPut(t, a, key, "old")
			}
			fltOwn(t, a, &sentA, "owned")
			fltOwn(t, a, &sentA, "range/1")
			fltOwn(t, b, &sentB, "foreign")
			tt.fill(t, etcd)
			for _, key := range append(keys, "foreign") {
				if _, err := a.Put(fltContext(t), key, "new"); !errors.Is(err, rpctypes.ErrNoSpace) {
					t.Errorf("put of %q: %v", key, err)
				}
				_, err := a.Txn(fltContext(t)).If(clientv3.Compare(clientv3.Version(key), ">", 0)).
					Then(clientv3.OpPut(key, "new")).Commit()
				if !errors.Is(err, rpctypes.ErrNoSpace) {
					t.Errorf("transaction on %q: %v", key, err)
				}
				// The server has the last word on whether something was applied.
				fltAgree(t, key, fltGet(t, plain, key), a, b, a, b)
			}
			for _, key := range keys[:2] {
				resp, err := a.Delete(fltContext(t), key)
				if err != nil || resp.Deleted != 1 {
					t.Errorf("delete of %q: %v, %v", key, resp, err)
				}
				fltAgree(t, key, "", plain, a, b)
			}
			resp, err := a.Delete(fltContext(t), "range/", clientv3.WithPrefix())
			if err != nil || resp.Deleted != 2 {
				t.Errorf("delete of a range: %v, %v", resp, err)
			}
			fltAgree(t, "range/1", "", plain, a, b)
			if fltClaim(t, plain, "foreign") == nil {
				t.Error("b has lost its claim")
			}
			etcd.SetNoSpace(false)
			if tt.opts != nil {
				return // it is still full
			}
			for _, key := range append(keys, "foreign") {
				fltPut(t, a, key, "at last")
				fltAgree(t, key, "at last", plain, a, b)
			}
			fltOwn(t, a, &sentA, "a later one") // b may have been first at the others
		})
	}
}

// With the alarm on, a key that somebody else owns cannot be deleted,
// as nobody can be asked for it. The error says so, and nothing has changed.
func TestNoSpaceDeletesForeignKey(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	var sent etcdtest.Counter
	a := fltOpen(t, etcd.Client(0), 2*time.Second)
	b := fltOpen(t, etcd.Client(0, sent.Option()), 2*time.Second)
	fltPut(t, b, "foreign", "old")
	fltOwn(t, b, &sent, "foreign")
	etcd.SetNoSpace(true)
	_, err := a.Delete(fltContext(t), "foreign")
	if !errors.Is(err, rpctypes.ErrNoSpace) || !strings.Contains(err.Error(), `"foreign" is owned by another client`) {
		t.Errorf("delete: %v", err)
	}
	fltAgree(t, "foreign", "old", plain, a, b)
	if _, err := b.Delete(fltContext(t), "foreign"); err != nil {
		t.Errorf("delete by the owner: %v", err)
	}
	fltAgree(t, "foreign", "", plain, a, b)
	etcd.SetNoSpace(false)
	fltOwn(t, b, &sent, "foreign")
	if _, err := a.Delete(fltContext(t), "foreign"); err != nil {
		t.Errorf("delete with space: %v", err)
	}
}
