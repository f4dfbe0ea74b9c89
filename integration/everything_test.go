package integration_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

var fltSeed = flag.Uint64("faults.seed", 0, "decides on the faults of TestLinearizableUnderEverything; 0 draws one")

// fltNode is a client with one KV after the other on it.
type fltNode struct {
	name   string
	cl     *clientv3.Client
	reopen chan struct{} // gets a value when the KV is to be replaced
	kv     *leasing.KV   // the last one, which is left open; nil if none could be opened
}

// live has KVs opened, used and closed on n until the scene ends.
func (s *fltScene) live(n *fltNode, ttl time.Duration) {
	for s.ctx.Err() == nil {
		kv, err := leasing.New(s.ctx, n.cl, leasing.Config{Prefix: fltPrefix, TTL: ttl})
		if err != nil {
			if s.ctx.Err() == nil {
				s.t.Errorf("%s: %v", n.name, err)
			}
			return
		}
		ctx, cancel := context.WithCancel(s.ctx)
		var wg sync.WaitGroup
		s.h.run(ctx, &wg, fltLoad{name: n.name, kv: kv, readers: 2, writers: 2, open: true, timeout: 6 * time.Second})
		select {
		case <-n.reopen:
			kv.Close() // in the middle of what is under way
		case <-s.ctx.Done():
			n.kv = kv
		}
		cancel()
		wg.Wait()
	}
}

// fltTrouble brings faults about, one after the other. Several of them may be
// at work in one scene.
type fltTrouble struct {
	*fltScene
	rng    *rand.Rand // decides on their order and on how long they last
	faults []fltFault
}

// fltFault is a fault that is over when bring returns.
type fltFault struct {
	name  string
	bring func(*fltTrouble)
}

// run brings all faults about in a random order, and again in another, until
// the scene ends.
func (tr *fltTrouble) run(gap time.Duration) {
	for {
		for _, i := range tr.rng.Perm(len(tr.faults)) {
			if !tr.last(gap) {
				return
			}
			began := time.Since(tr.h.began)
			tr.faults[i].bring(tr)
			tr.t.Logf("%6.2f s to %6.2f s: %s", began.Seconds(), time.Since(tr.h.began).Seconds(), tr.faults[i].name)
		}
	}
}

// last waits for up to d, and reports whether to go on.
func (tr *fltTrouble) last(d time.Duration) bool {
	select {
	case <-time.After(d/2 + time.Duration(tr.rng.Int64N(int64(d/2)))):
	case <-tr.ctx.Done():
	}
	return tr.ctx.Err() == nil
}

// relay returns the relay of one of the clients.
func (tr *fltTrouble) relay() *etcdtest.Relay { return tr.relays[tr.rng.IntN(len(tr.relays))] }

// follower returns a member that does not lead.
func (tr *fltTrouble) follower() int {
	return (tr.etcd.Leader() + 1 + tr.rng.IntN(tr.etcd.Size()-1)) % tr.etcd.Size()
}

func (tr *fltTrouble) isolate(member int) {
	tr.etcd.Isolate(member)
	tr.last(2 * time.Second)
	tr.etcd.Rejoin(member)
}

func (tr *fltTrouble) restart(member int, end func(int)) {
	end(member)
	tr.last(time.Second)
	tr.etcd.Restart(member)
}

// cut cuts a link for longer than leases last. What is held back meanwhile
// arrives late, or never.
func (tr *fltTrouble) cut(dirs ...etcdtest.Direction) {
	r := tr.relay()
	r.Cut(dirs...)
	tr.last(3 * time.Second)
	if tr.rng.IntN(2) == 0 {
		r.Reset()
	}
	r.Heal()
}

// fltMemberFaults are for the goroutine of the test alone. No more than one
// member is away at a time.
var fltMemberFaults = []fltFault{
	{"leader stopped", func(tr *fltTrouble) { tr.restart(tr.etcd.Leader(), tr.etcd.Stop) }},
	{"leader killed", func(tr *fltTrouble) { tr.restart(tr.etcd.Leader(), tr.etcd.Kill) }},
	{"follower killed", func(tr *fltTrouble) { tr.restart(tr.follower(), tr.etcd.Kill) }},
	{"leader isolated", func(tr *fltTrouble) { tr.isolate(tr.etcd.Leader()) }},
	{"follower isolated", func(tr *fltTrouble) { tr.isolate(tr.follower()) }},
	{"leadership moved", func(tr *fltTrouble) { tr.etcd.MoveLeader(tr.follower()) }},
}

var fltLinkFaults = []fltFault{
	{"link cut", func(tr *fltTrouble) { tr.cut() }},
	{"requests cut", func(tr *fltTrouble) { tr.cut(etcdtest.Requests) }},
	{"replies cut", func(tr *fltTrouble) { tr.cut(etcdtest.Replies) }},
	{"connections reset", func(tr *fltTrouble) { tr.relay().Reset() }},
	{"connections dropped", func(tr *fltTrouble) { tr.relay().Drop() }},
	{"connections refused", func(tr *fltTrouble) {
		r := tr.relay()
		r.Refuse()
		r.Reset()
		tr.last(time.Second)
		if err := r.Accept(); err != nil {
			tr.t.Error(err)
		}
	}},
	{"replies lost", func(tr *fltTrouble) {
		r := tr.relay()
		r.Cut(etcdtest.Replies)
		tr.last(300 * time.Millisecond) // requests go out
		r.Reset()
		r.Heal()
	}},
	{"replies late", func(tr *fltTrouble) {
		r := tr.relay()
		r.Delay(time.Duration(tr.rng.Int64N(int64(2*time.Second))), etcdtest.Replies)
		tr.last(3 * time.Second)
		r.Delay(0)
	}},
}

// fltCompact compacts the history up to what the oracle has seen, perhaps
// while the watch of a client lags.
func fltCompact(tr *fltTrouble) {
	r := tr.relay()
	lag := tr.rng.IntN(2) == 0
	if lag {
		r.Cut()
		tr.last(500 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(tr.ctx, fltPatience)
	defer cancel()
	rev := tr.h.told.Load()
	_, err := tr.plain.Compact(ctx, rev)
	if errors.Is(err, rpctypes.ErrFutureRev) { // any other: it is compacted, or a member is away
		tr.t.Errorf("compact at %d: %v", rev, err)
	}
	if lag {
		r.Reset()
		r.Heal()
	}
}

// Item 11. Several KVs, each on a client and a member of its own, and an owner
// in another process are linearizable, whatever happens all at once to the
// members, to the links, and to the clients themselves.
func TestLinearizableUnderEverything(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	seed := *fltSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("for the same faults: -faults.seed %d", seed)
	s := &fltScene{t: t, etcd: etcdtest.Start(t, etcdtest.QuickTicks(), etcdtest.Members(3))}
	var err error
	if s.plain, err = s.etcd.NewClient(s.etcd.Endpoints()); err != nil {
		t.Fatal(err)
	}
	s.h = fltRecord(t, s.plain)
	own := s.etcd.Relay(0)
	owner := fltStartOwner(t, s.h, fltOrders{Name: "owner", Endpoint: own.URL(), TTL: ttl, Burst: 20})
	s.relays = append(s.relays, own)
	var sent etcdtest.Counter
	var nodes []*fltNode
	for i := range s.etcd.Size() {
		r := s.etcd.Relay(i)
		s.relays = append(s.relays, r)
		nodes = append(nodes, &fltNode{
			name: fmt.Sprint("kv", i), cl: s.etcd.ClientVia(r, sent.Option(), fltNotices), reopen: make(chan struct{}, 1),
		})
	}
	clientFaults := []fltFault{
		{"history compacted", fltCompact},
		{"KV closed and opened", func(tr *fltTrouble) {
			select {
			case nodes[tr.rng.IntN(len(nodes))].reopen <- struct{}{}:
			default: // it is at that
			}
		}},
		{"owner frozen", func(tr *fltTrouble) {
			owner.freeze()
			tr.last(ttl/4 + time.Duration(tr.rng.Int64N(int64(2*ttl))))
			owner.thaw()
		}},
	}
	trouble := func(stream uint64, faults []fltFault) *fltTrouble {
		return &fltTrouble{s, rand.New(rand.NewPCG(seed, stream)), faults}
	}

	var cancel context.CancelFunc
	s.ctx, cancel = context.WithTimeout(t.Context(), 7*(*fltDuration))
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() { s.live(n, ttl) })
	}
	s.h.run(s.ctx, &wg, fltLoad{name: "plain", kv: s.plain, readers: 1, timeout: 3 * time.Second})
	wg.Go(func() { trouble(1, fltLinkFaults).run(time.Second) })
	wg.Go(func() { trouble(2, clientFaults).run(time.Second) })
	trouble(3, fltMemberFaults).run(time.Second)
	wg.Wait()

	for _, r := range s.relays {
		r.Delay(0)
		r.Heal()
	}
	owner.end()
	kvs := map[string]clientv3.KV{"plain": s.plain}
	for _, n := range nodes {
		if n.kv == nil {
			n.kv = fltOpen(t, n.cl, ttl)
		}
		kvs[n.name] = n.kv
		defer n.kv.Close()
	}
	s.h.check(s.plain, kvs)
	t.Logf("%d point reads, %d of them without a request, and %d of the owner, %v", s.h.gets, s.h.local, owner.local(), &sent)
	if s.h.local == 0 || owner.local() == 0 {
		t.Error("too few reads came from memory to prove anything")
	}
}
