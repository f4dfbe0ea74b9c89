package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

func faultRows() []*row {
	return []*row{
		{name: "A put of an owned key whose reply is lost is applied once, and all see it", check: func(e *env) {
			e.lostReply(true, func(ctx context.Context, kv clientv3.KV) error {
				_, err := kv.Put(ctx, "k", "2")
				return err
			}, "2")
		}},
		{name: "A put of an unclaimed key whose reply is lost is applied once, and all see it", check: func(e *env) {
			e.lostReply(false, func(ctx context.Context, kv clientv3.KV) error {
				_, err := kv.Put(ctx, "k", "2")
				return err
			}, "2")
		}},
		{name: "A transaction whose reply is lost is applied once, and all see it", check: func(e *env) {
			e.lostReply(true, func(ctx context.Context, kv clientv3.KV) error {
				_, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.Version("k"), ">", 0)).Then(clientv3.OpPut("k", "2")).Commit()
				return err
			}, "2")
		}},
		{name: "A delete whose reply is lost is seen by all", check: func(e *env) {
			e.lostReply(true, func(ctx context.Context, kv clientv3.KV) error {
				_, err := kv.Delete(ctx, "k")
				return err
			}, "")
		}},
		{name: "A put that arrives when its caller has given up is seen by all or by none", check: checkLateWrite},
		{name: "While connections are dropped, three parties are linearizable", check: func(e *env) {
			e.storm(2*time.Second, 4*time.Second, dropConnections)
		}},
		{name: "While owners are cut off, three parties are linearizable", check: func(e *env) {
			e.storm(time.Second, 8*time.Second, cutOff)
		}},
		{name: "While replies are late, three parties are linearizable", check: func(e *env) {
			e.storm(2*time.Second, 8*time.Second, delayReplies)
		}},
		{name: "While leaders come and go, three parties are linearizable", check: func(e *env) {
			e.storm(2*time.Second, 6*time.Second, changeLeaders)
		}, etcd: []etcdtest.Option{etcdtest.Members(3)}, limit: 45 * time.Second},
		{name: "A cut-off owner goes on reading from memory", leased: true, check: checkCutOffReads},
		{name: "A cut-off owner reads nothing that another has overwritten", check: checkCutOffStale},
		{name: "A renewal that is answered late does not lengthen a lease", check: checkLateRenewal, limit: 45 * time.Second},
		{name: "A writer does not wait for an owner that has died", check: checkDeadOwner,
			known: "it waits until the owner's leases have expired, at most the TTL"},
		{name: "With the server away, calls end with their contexts", check: checkContextsEnd},
		{name: "When the server is back after longer than the TTL, all is well again", check: checkServerBack},
		{name: "A key changes hands after a compaction that its owner has missed", check: checkCompaction},
		{name: "A key changes hands after a change of the leader", check: checkLeaderChange,
			etcd: []etcdtest.Option{etcdtest.Members(3)}},
		{name: "A serializable read needs no quorum", check: checkNoQuorum,
			etcd: []etcdtest.Option{etcdtest.Members(3)}},
		{name: "While etcd is out of space, refused puts leave everybody with what etcd has", check: checkNoSpacePut},
		{name: "While etcd is out of space, unclaimed and owned keys can be deleted", check: func(e *env) {
			e.noSpaceDelete(unclaimed, owned)
		}},
		{name: "While etcd is out of space, foreign keys can be deleted", check: func(e *env) {
			e.noSpaceDelete(foreign)
		}, known: "nobody can be asked for a key then, as that takes a put"},
		{name: "Calls that are cancelled end, and nothing goes on sending", check: checkCancelled},
	}
}

// lostReply checks a write of k whose reply gets lost, and what k is then.
func (e *env) lostReply(own bool, write func(context.Context, clientv3.KV) error, want string) {
	relay := e.etcd.Relay(0)
	a, b := e.behind(relay, longTTL), e.party()
	e.put(e.plain, "k", "1")
	e.value(a, "other") // a is connected
	if own {
		e.own(a, "k")
	}
	before := e.kept("k")
	var err error
	e.must(relay.LoseReply(
		func() { err = write(e.ctx, a) },
		func() bool { return e.kept("k").ModRevision != before.ModRevision },
	))
	e.reconnects(a)
	e.pause(300 * time.Millisecond) // for what is sent again
	after := e.kept("k")
	e.show("applied %s", times(after.Version-before.Version))
	if want != "" {
		e.expect(after.Version == before.Version+1, "it was applied %s, and its caller was told %v", times(after.Version-before.Version), err)
	} else {
		e.show("%s", map[bool]string{true: "deleted", false: "not deleted"}[after.Version == 0])
	}
	e.agree("k", want, e.plain, a, b, a)
}

// reconnects waits until a party reaches etcd again.
func (e *env) reconnects(p *party) {
	e.until("a party is back", func() bool {
		return e.tries(time.Second, func(ctx context.Context) error {
			_, err := p.Get(ctx, "m", clientv3.WithRange("n")) // which is never in memory
			return err
		}) == nil
	})
}

// putAtLast puts until that succeeds.
func (e *env) putAtLast(p *party, key, value string) {
	e.until("a put succeeds", func() bool {
		return e.tries(5*time.Second, func(ctx context.Context) error {
			_, err := p.Put(ctx, key, value)
			return err
		}) == nil
	})
}

func times(n int64) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprint(n, " times")
}

// state is what is compared of a key.
type state struct{ Version, ModRevision int64 }

// kept returns what etcd has of a key.
func (e *env) kept(key string) state {
	resp, err := e.plain.Get(e.ctx, key)
	e.must(err)
	if len(resp.Kvs) == 0 {
		return state{}
	}
	return state{resp.Kvs[0].Version, resp.Kvs[0].ModRevision}
}

func checkLateWrite(e *env) {
	relay := e.etcd.Relay(0)
	a, b := e.behind(relay, longTTL), e.party()
	for i := range 4 {
		key := numbered("k", i)
		e.put(a, key, "in time")
		e.own(a, key)
		relay.Cut(etcdtest.Requests)
		err := e.tries(100*time.Millisecond, func(ctx context.Context) error {
			_, err := a.Put(ctx, key, "late")
			return err
		})
		e.expect(err != nil, "a put through a cut link has succeeded")
		relay.Heal()
		e.pause(200 * time.Millisecond) // by then it has arrived
		e.agree(key, e.value(e.plain, key), a, b, a)
	}
}

// scene is what a storm breaks.
type scene struct {
	*env
	relays []*etcdtest.Relay
	ctx    context.Context // of the storm
}

// lasts waits for d, and reports whether the storm goes on.
func (s *scene) lasts(d time.Duration) bool {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
	return s.ctx.Err() == nil
}

// storm checks a history of three parties under faults.
func (e *env) storm(ttl, lasts time.Duration, faults func(*scene)) {
	h := e.record()
	s := &scene{env: e}
	var parties []*party
	for i := range 3 {
		r := e.etcd.Relay(i % e.etcd.Size())
		s.relays = append(s.relays, r)
		parties = append(parties, e.behind(r, ttl))
	}
	ctx, cancel := context.WithTimeout(e.ctx, lasts)
	defer cancel()
	s.ctx = ctx
	wait := h.play(ctx, parties)
	faults(s)
	e.returns("all calls end", within, wait)
	for _, r := range s.relays {
		r.Delay(0)
		r.Heal()
	}
	h.judge(parties)
}

func dropConnections(s *scene) {
	for i := 0; s.lasts(200 * time.Millisecond); i++ {
		s.relays[i%len(s.relays)].Reset()
	}
}

// cutOff cuts each party off in turn, for longer than its leases last.
func cutOff(s *scene) {
	ways := [][]etcdtest.Direction{nil, {etcdtest.Requests}, {etcdtest.Replies}}
	for i := 0; s.lasts(400 * time.Millisecond); i++ {
		r := s.relays[i%len(s.relays)]
		r.Cut(ways[i%len(ways)]...)
		s.lasts(1900 * time.Millisecond)
		if i%2 == 0 {
			r.Reset()
		}
		r.Heal()
	}
}

// delayReplies makes replies late, and then lets no more requests through.
func delayReplies(s *scene) {
	for i := 0; s.lasts(300 * time.Millisecond); i++ {
		r := s.relays[i%len(s.relays)]
		r.Delay(1500*time.Millisecond, etcdtest.Replies)
		s.lasts(1200 * time.Millisecond)
		r.Cut(etcdtest.Requests)
		s.lasts(2500 * time.Millisecond)
		r.Delay(0)
		r.Heal()
	}
}

func changeLeaders(s *scene) {
	for i := 0; s.lasts(700 * time.Millisecond); i++ {
		leader := s.etcd.Leader()
		if i%2 == 0 {
			s.etcd.Isolate(leader)
			s.lasts(1500 * time.Millisecond)
			s.etcd.Rejoin(leader)
		} else {
			s.etcd.MoveLeader((leader + 1) % s.etcd.Size())
		}
	}
}

// serves reads k as long as that is answered without etcd, and returns when
// the last answer came.
func (e *env) serves(a *party, want string) (last time.Time) {
	for {
		err := e.tries(50*time.Millisecond, func(ctx context.Context) error {
			resp, err := a.Get(ctx, "k")
			if err == nil && (len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != want) {
				err = errors.New("another value")
			}
			return err
		})
		if err != nil {
			return last
		}
		last = time.Now()
		e.pause(time.Millisecond)
	}
}

func checkCutOffReads(e *env) {
	const ttl = 4 * time.Second
	relay := e.etcd.Relay(0)
	a := e.behind(relay, ttl)
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	relay.Cut()
	cut := time.Now()
	served := max(0, e.serves(a, "1").Sub(cut))
	e.show("%.0f s of a TTL of %.0f s", served.Seconds(), ttl.Seconds())
	e.expect(served > ttl/4, "it reads from memory for %v", served.Round(100*time.Millisecond))
}

// staleReads has a read key in short calls until end, and counts how many
// began after overwritten was set and still returned the old value.
func (e *env) staleReads(a *party, key string, overwritten *atomic.Bool, end time.Time) (n int64) {
	for time.Now().Before(end) {
		late := overwritten.Load()
		_ = e.tries(50*time.Millisecond, func(ctx context.Context) error {
			resp, err := a.Get(ctx, key)
			if late && err == nil && len(resp.Kvs) == 1 && string(resp.Kvs[0].Value) == "1" {
				n++
			}
			return err
		})
		e.pause(time.Millisecond)
	}
	return n
}

// overtake has b write a key of each of the owners, who are cut off, and checks
// that they do not go on reading what it was.
func (e *env) overtake(ttl time.Duration, owners []*party, b *party) {
	end := time.Now().Add(ttl + 4*time.Second)
	var stale atomic.Int64
	e.together(len(owners), func(i int) {
		key := numbered("k", i)
		var overwritten atomic.Bool
		wait := e.begin(func() {
			e.put(b, key, "2")
			overwritten.Store(true)
		})
		stale.Add(e.staleReads(owners[i], key, &overwritten, end))
		wait()
	})
	n := int(stale.Load())
	e.show("%s", plural(n, "stale read"))
	e.expect(n == 0, "an owner goes on reading what was overwritten")
}

func checkCutOffStale(e *env) {
	const ttl = 3 * time.Second
	relay := e.etcd.Relay(0)
	b := e.party()
	var owners []*party
	for i := range 5 {
		// They are at different points of their leases when they are cut off.
		owners = append(owners, e.behind(relay, ttl))
		e.put(e.plain, numbered("k", i), "1")
		e.own(owners[i], numbered("k", i))
		e.pause(210 * time.Millisecond)
	}
	relay.Cut()
	e.overtake(ttl, owners, b)
	relay.Heal()
	for i, a := range owners {
		e.reconnects(a)
		e.agree(numbered("k", i), "2", a, b)
	}
}

// heldStream does something with each message before it hands it on.
type heldStream struct {
	grpc.ClientStream
	hold func()
}

func (s heldStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	s.hold()
	return err
}

// holdRenewals has hold called with each reply to a renewal.
func holdRenewals(hold func()) etcdtest.ClientOption {
	return func(cfg *clientv3.Config) {
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainStreamInterceptor(
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				s, err := open(ctx, desc, cc, method, opts...)
				if err != nil || method != pb.Lease_LeaseKeepAlive_FullMethodName {
					return s, err
				}
				return heldStream{s, hold}, nil
			}))
	}
}

// checkLateRenewal cuts an owner off when a renewal of its lease has been
// answered, and has it learn of that answer two seconds later.
func checkLateRenewal(e *env) {
	const ttl, late = 8 * time.Second, 2 * time.Second
	relay := e.etcd.Relay(0)
	var armed atomic.Bool
	renewed := make(chan struct{})
	a := e.behind(relay, ttl, holdRenewals(func() {
		if armed.CompareAndSwap(true, false) {
			relay.Cut()
			close(renewed)
			time.Sleep(late)
		}
	}))
	b := e.party()
	e.put(e.plain, numbered("k", 0), "1")
	e.own(a, numbered("k", 0))
	if !e.isPlain() {
		armed.Store(true)
		<-renewed
	}
	relay.Cut()
	e.overtake(ttl, []*party{a}, b)
}

func checkDeadOwner(e *env) {
	const ttl = 4 * time.Second
	relay := e.etcd.Relay(0)
	a, b := e.behind(relay, ttl), e.party()
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	relay.Cut() // which for others is the same
	began := time.Now()
	e.put(b, "k", "2")
	took := time.Since(began)
	e.show("%.0f s with a TTL of %.0f s", took.Seconds(), ttl.Seconds())
	e.expect(took < ttl/4, "the writer waits for the lease of the owner to expire")
}

func checkContextsEnd(e *env) {
	a, b := e.party(), e.party()
	e.put(e.plain, "k", "1")
	e.own(b, "k")
	e.value(a, "k")
	e.etcd.Stop(0)
	for _, c := range operations(a) {
		e.returns(c.name+" ends", 3*time.Second, func() {
			err := e.tries(300*time.Millisecond, c.do)
			e.expect(err != nil, "%s is answered", c.name)
		})
	}
}

// operation is a call that fails or not.
type operation struct {
	name string
	do   func(context.Context) error
}

// operations are all kinds of calls through a KV, on the key k.
func operations(kv clientv3.KV) []operation {
	return []operation{
		{"a get", func(ctx context.Context) error { _, err := kv.Get(ctx, "k"); return err }},
		{"a range get", func(ctx context.Context) error { _, err := kv.Get(ctx, "k", clientv3.WithPrefix()); return err }},
		{"a put", func(ctx context.Context) error { _, err := kv.Put(ctx, "k", "v"); return err }},
		{"a delete", func(ctx context.Context) error { _, err := kv.Delete(ctx, "k"); return err }},
		{"a range delete", func(ctx context.Context) error { _, err := kv.Delete(ctx, "k", clientv3.WithPrefix()); return err }},
		{"a transaction", func(ctx context.Context) error {
			_, err := kv.Txn(ctx).Then(clientv3.OpPut("k", "v"), clientv3.OpPut("l", "v")).Commit()
			return err
		}},
	}
}

func checkServerBack(e *env) {
	const ttl = 2 * time.Second
	a, b := e.join(e.etcd.Endpoints(), ttlOption(ttl)), e.join(e.etcd.Endpoints(), ttlOption(ttl))
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	e.etcd.Stop(0)
	e.pause(2 * ttl)
	e.must(e.etcd.TryRestart(0))
	e.putAtLast(b, "k", "2")
	e.reconnects(a)
	e.agree("k", "2", a, b)
	e.handsOver(a, b, "l")
	e.handsOver(b, a, "m")
}

func checkCompaction(e *env) {
	relay := e.etcd.Relay(0)
	a, b := e.behind(relay, longTTL), e.party()
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	relay.Cut()
	var wait func()
	if !e.isPlain() { // b asks for the key, which a does not hear
		claim := e.kept(prefix + "k")
		wait = e.begin(func() { e.put(b, "k", "2") })
		e.until("the owner is asked", func() bool { return e.kept(prefix+"k") != claim })
	} else {
		wait = e.begin(func() { e.put(b, "k", "2") })
	}
	for i := range 20 {
		e.put(e.plain, "elsewhere", fmt.Sprint(i))
	}
	_, err := e.plain.Compact(e.ctx, e.revision())
	e.must(err)
	relay.Reset()
	relay.Heal()
	e.returns("the put", within, wait)
	e.reconnects(a)
	e.agree("k", "2", a, b)
}

func checkLeaderChange(e *env) {
	a := e.join([]string{e.etcd.Endpoint(0)}, ttlOption(longTTL))
	b := e.join([]string{e.etcd.Endpoint(1)}, ttlOption(longTTL))
	for i := range 3 {
		key := numbered("k", i)
		e.putAtLast(a, key, "1")
		e.own(a, key)
		e.etcd.MoveLeader((e.etcd.Leader() + 1) % e.etcd.Size())
		e.putAtLast(b, key, "2")
		e.agree(key, "2", a, b)
	}
}

func checkNoQuorum(e *env) {
	a := e.join([]string{e.etcd.Endpoint(0)}, ttlOption(longTTL))
	e.put(e.plain, "k", "1")
	e.value(a, "other")
	e.until("the member has it", func() bool { // which may be behind
		resp, err := a.cl.Get(e.ctx, "k", clientv3.WithSerializable())
		return err == nil && resp.Count == 1
	})
	e.etcd.Kill(1)
	e.etcd.Kill(2)
	e.must(e.tries(3*time.Second, func(ctx context.Context) error {
		_, err := a.Get(ctx, "k", clientv3.WithSerializable())
		return err
	}))
}

func checkNoSpacePut(e *env) {
	p, t := e.pair(), e.tally("reads")
	for _, c := range conditions() {
		p.bring(c.String(), c)
	}
	e.etcd.SetNoSpace(true)
	for _, c := range conditions() {
		key := c.String()
		err := e.tries(5*time.Second, func(ctx context.Context) error { _, err := p.a.Put(ctx, key, "2"); return err })
		e.expect(errors.Is(err, rpctypes.ErrNoSpace), "put: %v", err)
		for _, who := range []*party{p.a, p.b, p.a} {
			p.sees(t, "a key that is "+key, who, key)
		}
	}
	e.etcd.SetNoSpace(false)
	t.done()
}

func (e *env) noSpaceDelete(owners ...string) {
	p := e.pair()
	for _, owner := range owners {
		p.bring(owner, condition{owner, true})
		if owner == foreign {
			e.own(p.b, owner)
		}
	}
	e.etcd.SetNoSpace(true)
	for _, owner := range owners {
		err := e.tries(5*time.Second, func(ctx context.Context) error {
			resp, err := p.a.Delete(ctx, owner)
			if err == nil && resp.Deleted != 1 {
				err = fmt.Errorf("%d deleted", resp.Deleted)
			}
			return err
		})
		e.expect(err == nil, "delete of a key that is %s: %v", owner, err)
		e.agree(owner, "", e.plain, p.a, p.b)
	}
}

func checkCancelled(e *env) {
	relay := e.etcd.Relay(0)
	a, b := e.party(), e.behind(relay, longTTL)
	e.put(e.plain, "k", "1")
	e.own(b, "k")
	relay.Cut() // b gives nothing back
	for _, c := range operations(a) {
		e.returns(c.name+" ends", 3*time.Second, func() { _ = e.tries(200*time.Millisecond, c.do) })
	}
	n := a.sending(func() { e.pause(2 * time.Second) })
	e.show("%s in 2 s", plural(n, "request"))
	e.expect(n < 10, "%s in 2 s after all calls were cancelled", plural(n, "request"))
}
