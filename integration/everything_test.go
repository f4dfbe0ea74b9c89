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
	kv     *leasing.KV   // nil if the scene ended before it was open
}

// live has the KV of n used, closed and replaced until the scene ends.
func (s *fltScene) live(n *fltNode, ttl time.Duration) {
	for kv := n.kv; kv != nil && s.ctx.Err() == nil; kv = n.kv {
		ctx, cancel := context.WithCancel(s.ctx)
		var wg sync.WaitGroup
		s.h.run(ctx, &wg, fltLoad{name: n.name, kv: kv, readers: 2, writers: 2, open: true, timeout: 6 * time.Second})
		select {
		case <-n.reopen:
			kv.Close() // in the middle of what is under way
			n.kv, _ = leasing.New(s.ctx, n.cl, leasing.Config{Prefix: fltPrefix, TTL: ttl})
		case <-s.ctx.Done():
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
	{"leadership moved", func(tr *fltTrouble) {
		if err := tr.etcd.TryMoveLeader(tr.follower()); err != nil {
			tr.t.Logf("the leader stays: %v", err) // members are slow, after all that
		}
	}},
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
	{"replies lost", fltLoseReplies},
	{"replies late", func(tr *fltTrouble) {
		r := tr.relay()
		r.Delay(time.Duration(tr.rng.Int64N(int64(2*time.Second))), etcdtest.Replies)
		tr.last(3 * time.Second)
		r.Delay(0)
	}},
}

// fltLoseReplies ends all connections when writes have gone out and before
// they are answered.
func fltLoseReplies(tr *fltTrouble) {
	for _, r := range tr.relays {
		r.Cut(etcdtest.Replies)
	}
	select {
	case <-time.After(time.Until(tr.h.writing()) + fltWriting*3/4):
	case <-tr.ctx.Done():
	}
	for _, r := range tr.relays {
		r.Reset()
		r.Heal()
	}
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

// fltEverything is a scene with a KV on each of three members, and an owner in
// another process.
type fltEverything struct {
	*fltScene
	sent  etcdtest.Counter // by the KVs
	nodes []*fltNode
	owner *fltOwner
}

// fltSetUp makes such a scene. When it returns, everything works and the owner
// has all keys.
func fltSetUp(t *testing.T, ttl time.Duration) *fltEverything {
	// Not the quickest of ticks: it has to keep up with all that.
	etcd := etcdtest.Start(t, etcdtest.Ticks(50*time.Millisecond, 500*time.Millisecond), etcdtest.Members(3))
	plain, err := etcd.NewClient(etcd.Endpoints())
	if err != nil {
		t.Fatal(err)
	}
	e := &fltEverything{fltScene: &fltScene{t: t, etcd: etcd, plain: plain, h: fltRecord(t, plain)}}
	link := etcd.Relay(0)
	e.owner = fltStartOwner(t, e.h, fltOrders{Name: "owner", Endpoint: link.URL(), TTL: ttl, Burst: 20})
	e.relays = append(e.relays, link)
	for i := range etcd.Size() {
		link := etcd.Relay(i)
		cl := etcd.ClientVia(link, e.sent.Option(), fltNotices)
		e.relays = append(e.relays, link)
		e.nodes = append(e.nodes, &fltNode{name: fmt.Sprint("kv", i), cl: cl, reopen: make(chan struct{}, 1), kv: fltOpen(t, cl, ttl)})
	}
	fltOwned(t, plain, e.h)
	return e
}

// clientFaults are what happens to the clients themselves.
func (e *fltEverything) clientFaults(ttl time.Duration) []fltFault {
	return []fltFault{
		{"history compacted", fltCompact},
		{"KV closed and opened", func(tr *fltTrouble) {
			select {
			case e.nodes[tr.rng.IntN(len(e.nodes))].reopen <- struct{}{}:
			default: // it is at that
			}
		}},
		{"owner frozen", func(tr *fltTrouble) {
			e.owner.freeze()
			tr.last(ttl/4 + time.Duration(tr.rng.Int64N(int64(2*ttl))))
			e.owner.thaw()
		}},
	}
}

// end ends all faults and judges the history.
func (e *fltEverything) end(ttl time.Duration) {
	e.t.Helper()
	for _, r := range e.relays {
		r.Delay(0)
		r.Heal()
	}
	e.owner.end()
	kvs := map[string]clientv3.KV{"plain": e.plain}
	for _, n := range e.nodes {
		if n.kv == nil {
			n.kv = fltOpen(e.t, n.cl, ttl)
		}
		kvs[n.name] = n.kv
		defer n.kv.Close()
	}
	e.h.check(e.plain, kvs)
	e.t.Logf("%d point reads, %d of them without a request, and %d of the owner, %v", e.h.gets, e.h.local, e.owner.local(), &e.sent)
	if e.h.local == 0 || e.owner.local() == 0 {
		e.t.Error("too few reads came from memory to prove anything")
	}
}

// Several KVs, each on a client and a member of its own, and an owner
// in another process are linearizable, whatever happens all at once to the
// members, to the links, and to the clients themselves.
func TestLinearizableUnderEverything(t *testing.T) {
	if !fltCanFreeze {
		t.Skip("this system has no SIGSTOP")
	}
	t.Parallel()
	const ttl = 2 * time.Second
	seed := *fltSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("for the same faults: -faults.seed %d", seed)
	e := fltSetUp(t, ttl)
	var cancel context.CancelFunc
	e.ctx, cancel = context.WithTimeout(t.Context(), 7*(*fltDuration))
	defer cancel()
	trouble := func(stream uint64, faults []fltFault) {
		tr := &fltTrouble{e.fltScene, rand.New(rand.NewPCG(seed, stream)), faults}
		tr.run(time.Second)
	}
	var wg sync.WaitGroup
	for _, n := range e.nodes {
		wg.Go(func() { e.live(n, ttl) })
	}
	e.h.run(e.ctx, &wg, fltLoad{name: "plain", kv: e.plain, readers: 1, timeout: 3 * time.Second})
	wg.Go(func() { trouble(1, fltLinkFaults) })
	wg.Go(func() { trouble(2, e.clientFaults(ttl)) })
	trouble(3, fltMemberFaults)
	wg.Wait()
	e.end(ttl)
}
