package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

func faultRows() []*row {
	return []*row{
		{name: "A put of an owned key whose reply is lost is applied once, and all see it", check: func(e *env) {
			e.lostReply(true, clientv3.OpPut("k", "2"), "2")
		}},
		{name: "A put of an unclaimed key whose reply is lost is applied once, and all see it", check: func(e *env) {
			e.lostReply(false, clientv3.OpPut("k", "2"), "2")
		}},
		{name: "A transaction whose reply is lost is applied once, and all see it", check: func(e *env) {
			exists := clientv3.Compare(clientv3.Version("k"), ">", 0)
			e.lostReply(true, clientv3.OpTxn(cmps{exists}, ops{clientv3.OpPut("k", "2")}, nil), "2")
		}},
		{name: "A delete whose reply is lost is seen by all", check: func(e *env) {
			e.lostReply(true, clientv3.OpDelete("k"), "")
		}},
		{name: "A put that arrives when its caller has given up is seen by all or by none", check: checkLateWrite},
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
		{name: "Calls that are given up end, and nothing goes on sending", check: checkGivenUp},
	}
}

// lostReply checks a write of k whose reply gets lost, and what k is then.
func (e *env) lostReply(own bool, write clientv3.Op, want string) {
	relay := e.etcd.Relay(0)
	a, b := e.behind(relay, longTTL), e.party()
	e.put(e.plain, "k", "1")
	e.value(a, "other") // a is connected
	if own {
		e.own(a, "k")
	}
	before := e.kept("k")
	e.must(relay.LoseReply(
		func() { _, _ = a.Do(e.ctx, write) }, // the caller may be told anything
		func() bool { return e.kept("k").ModRevision != before.ModRevision },
	))
	e.reconnects(a)
	e.pause(300 * time.Millisecond) // for what is sent again
	if want != "" {
		n := e.kept("k").Version - before.Version
		e.show("applied %s", times(n))
		e.expect(n == 1, "it was applied %s", times(n))
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
		e.pause(200 * time.Millisecond) // in which it arrives, as a rule
		e.until("all read the same", func() bool {
			v := e.value(e.plain, key)
			return e.value(a, key) == v && e.value(b, key) == v
		})
	}
}

func checkCompaction(e *env) {
	relay := e.etcd.Relay(0)
	a, b := e.behind(relay, longTTL), e.party()
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	relay.Cut()
	claim := e.kept(prefix + "k")
	wait := e.begin(func() { e.put(b, "k", "2") })
	if !e.isPlain() {
		e.until("the owner is asked, which it does not hear", func() bool { return e.kept(prefix+"k") != claim })
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
	a := e.join([]string{e.etcd.Endpoint(0)}, contender.TTL(longTTL))
	b := e.join([]string{e.etcd.Endpoint(1)}, contender.TTL(longTTL))
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
	a := e.join([]string{e.etcd.Endpoint(0)}, contender.TTL(longTTL))
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

func checkGivenUp(e *env) {
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
	e.expect(n < 10, "%s in 2 s after all calls were given up", plural(n, "request"))
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
