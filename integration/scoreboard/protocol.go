package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

func protocolRows() []*row {
	return []*row{
		{name: "A read of an owned key takes no request", leased: true, check: checkOwnedReads},
		{name: "A read of a key that is known to be absent takes no request", leased: true, check: checkAbsentReads},
		{name: "A transaction that only reads owned keys takes no request", leased: true, check: checkOwnedTxn},
		{name: "A key with a lease of its own is read from memory, too", leased: true, check: checkOwnLease,
			known: "such a key can vanish without the owner's consent, so it is read from etcd"},
		{name: "The first read of a key takes no commit", check: checkFirstRead,
			known: "a claim is a write"},
		{name: "A hundred first readers of one key take at most ten commits", leased: true, check: checkSharedClaim},
		{name: "First reads of 300 keys at once take at most 60 commits", leased: true, check: checkBatches},
		{name: "A hundred reads of a foreign key take at most three commits", leased: true, check: checkForeignReads},
		{name: "A put of an unclaimed key takes one commit", check: func(e *env) { e.putTakes(unclaimed, 1) }},
		{name: "A put of an owned key takes one commit", check: func(e *env) { e.putTakes(owned, 1) }},
		{name: "A put of a foreign key takes three commits", leased: true, check: func(e *env) { e.putTakes(foreign, 3) }},
		{name: "A delete of a foreign key takes three commits", leased: true, check: checkForeignDelete,
			known: "its first transaction holds no put, so that it can be sent while etcd is out of space"},
		{name: "A range delete of keys that nobody owns takes one request", check: checkRangeDelete,
			known: "it lists the claims of the range first"},
		{name: "A key changes hands without waiting for a lease to end", leased: true, check: checkHandOver},
		{name: "A key that has changed hands is read from memory at once", leased: true, check: checkOwnedAgain,
			known: "it rests for 250 ms and more, so that readers do not hold up writers"},
		{name: "Two readers of one key both read it from memory", leased: true, check: checkTwoReaders,
			known: "a key is owned by one client at a time"},
		{name: "Eager readers do not hold up a writer: at most six requests a put", check: checkNotStarved},
		{name: "On a calm day, three parties are linearizable", check: func(e *env) { e.calm(false) }},
		{name: "On a calm day, three parties on one client are linearizable", check: func(e *env) { e.calm(true) }},
		{name: "A claim that an operator deletes is noticed", leased: true, check: func(e *env) {
			e.operator(func(claim *clientv3.GetResponse) error {
				_, err := e.plain.Delete(e.ctx, string(claim.Kvs[0].Key))
				return err
			})
		}},
		{name: "A lease that an operator revokes is noticed", leased: true, check: func(e *env) {
			e.operator(func(claim *clientv3.GetResponse) error {
				_, err := e.plain.Revoke(e.ctx, clientv3.LeaseID(claim.Kvs[0].Lease))
				return err
			})
		}},
		{name: "A put of a plain client is seen by an owner", check: checkPlainPut,
			known: "every writer of the keys must use a leasing KV"},
		{name: "Keys go to clients of etcd's leasing package and back", leased: true, check: checkMixedFleet},
		{name: "It works through namespaces", check: checkNamespace},
		{name: "It works with passwords and TLS", check: checkSecure,
			etcd: []etcdtest.Option{etcdtest.TLS(), etcdtest.Auth(ann(prefix))}},
		{name: "A user without rights on the claims reads the data", check: checkNoRightsRead,
			etcd: []etcdtest.Option{etcdtest.Auth(ann("data/"))}},
		{name: "A user without rights on the claims is told at once whether he may put", check: checkNoRightsAnswer,
			etcd: []etcdtest.Option{etcdtest.Auth(ann("data/"))}},
		{name: "A user without rights on the claims writes the data", check: checkNoRightsPut,
			known: "the guard of a write reads the claim",
			etcd:  []etcdtest.Option{etcdtest.Auth(ann("data/"))}},
	}
}

// reads has p read key so often, and shows how many requests that takes.
func (e *env) reads(p *party, key string, times int) (requests int) {
	n := p.sending(func() {
		for range times {
			e.value(p, key)
		}
	})
	e.show("%s for %d reads", plural(n, "request"), times)
	return n
}

func checkOwnedReads(e *env) {
	a := e.party()
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	n := e.reads(a, "k", 1000)
	e.expect(n == 0, "%s for reads of an owned key", plural(n, "request"))
}

func checkAbsentReads(e *env) {
	a := e.party()
	e.value(a, "k")
	n := e.reads(a, "k", 1000)
	e.expect(n == 0, "%s for reads of a key that is absent", plural(n, "request"))
}

func checkOwnedTxn(e *env) {
	a := e.party()
	e.put(e.plain, "k", "1")
	e.put(e.plain, "l", "1")
	e.own(a, "k")
	e.own(a, "l")
	n := a.sending(func() {
		resp, err := a.Txn(e.ctx).If(clientv3.Compare(clientv3.Value("k"), "=", "1")).
			Then(clientv3.OpGet("k"), clientv3.OpGet("l")).Commit()
		e.must(err)
		e.expect(resp.Succeeded, "the comparison does not hold")
	})
	e.show("%s", plural(n, "request"))
	e.expect(n == 0, "it has sent %s", plural(n, "request"))
}

func checkOwnLease(e *env) {
	a := e.party()
	_, err := e.plain.Put(e.ctx, "k", "1", clientv3.WithLease(e.lease()))
	e.must(err)
	e.value(a, "k")
	n := e.reads(a, "k", 100)
	e.expect(n == 0, "%s for reads of a key that was read before", plural(n, "request"))
}

func checkFirstRead(e *env) {
	a := e.party()
	e.put(e.plain, "k", "1")
	n := e.commit(func() { e.value(a, "k") })
	e.show("%s", plural(n, "commit"))
	e.expect(n == 0, "it takes %s", plural(n, "commit"))
}

func checkSharedClaim(e *env) {
	a := e.party()
	e.put(e.plain, "k", "1")
	n := e.commit(func() { e.together(100, func(int) { e.value(a, "k") }) })
	e.show("%s", plural(n, "commit"))
	e.expect(n <= 10, "%s for readers of one key", plural(n, "commit"))
}

func checkBatches(e *env) {
	const keys = 300
	a := e.party()
	n := e.commit(func() { e.together(keys, func(i int) { e.value(a, numbered("k", i)) }) })
	e.show("%s", plural(n, "commit"))
	e.expect(n <= 60, "%s for readers of %d keys", plural(n, "commit"), keys)
	e.expect(e.claims() == keys, "%d claims for %d keys", e.claims(), keys)
}

func checkForeignReads(e *env) {
	a, b := e.party(), e.party()
	e.put(e.plain, "k", "1")
	e.own(b, "k")
	n := e.commit(func() { e.reads(a, "k", 100) })
	e.show("%s", plural(n, "commit"))
	e.expect(n <= 3, "%s for reads of a foreign key", plural(n, "commit"))
}

// putTakes checks how many commits a put of a key takes.
func (e *env) putTakes(owner string, most int) {
	p := e.pair()
	e.put(e.plain, "k", "1")
	switch owner {
	case owned:
		e.own(p.a, "k")
	case foreign:
		e.own(p.b, "k")
	}
	n := e.commit(func() { e.put(p.a, "k", "2") })
	e.show("%s", plural(n, "commit"))
	e.expect(n <= most, "it takes %s", plural(n, "commit"))
	e.agree("k", "2", p.a, p.b)
}

func checkForeignDelete(e *env) {
	a, b := e.party(), e.party()
	e.put(e.plain, "k", "1")
	e.own(b, "k")
	n := e.commit(func() {
		_, err := a.Delete(e.ctx, "k")
		e.must(err)
	})
	e.show("%s", plural(n, "commit"))
	e.expect(n <= 3, "it takes %s", plural(n, "commit"))
	e.agree("k", "", a, b)
}

func checkRangeDelete(e *env) {
	a := e.party()
	e.put(e.plain, "m/1", "1")
	e.put(e.plain, "m/2", "1")
	n := a.sending(func() {
		_, err := a.Delete(e.ctx, "m/", clientv3.WithPrefix())
		e.must(err)
	})
	e.show("%s", plural(n, "request"))
	e.expect(n == 1, "it takes %s", plural(n, "request"))
}

func checkHandOver(e *env) {
	a, b := e.party(), e.party()
	var took time.Duration
	const times = 20
	for i := range times {
		key := numbered("k", i)
		e.put(e.plain, key, "1")
		e.own(b, key)
		began := time.Now()
		e.put(a, key, "2")
		took += time.Since(began)
		e.agree(key, "2", b, a)
	}
	e.show("%.1f ms", float64(took.Microseconds())/1000/times)
	e.expect(took < longTTL/4, "%d keys took %v", times, took)
}

func checkOwnedAgain(e *env) {
	a, b := e.party(), e.party()
	e.put(e.plain, "k", "1")
	e.own(b, "k")
	e.put(a, "k", "2")
	e.value(a, "k")
	n := e.reads(a, "k", 10)
	e.expect(n == 0, "%s for reads of a key that was read before", plural(n, "request"))
}

func checkTwoReaders(e *env) {
	a, b := e.party(), e.party()
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	e.value(b, "k")
	n := e.reads(b, "k", 100)
	e.expect(n == 0, "%s of the second reader", plural(n, "request"))
}

func checkNotStarved(e *env) {
	const most = 6
	w := e.party()
	e.put(w, "k", "0")
	ctx, cancel := context.WithCancel(e.ctx)
	var written atomic.Int64
	var waits []func()
	for range 3 {
		r := e.party()
		for range 2 {
			waits = append(waits, e.begin(func() { e.readEagerly(ctx, r, &written) }))
		}
	}
	worst := 0
	for i := range 20 {
		time.Sleep(20 * time.Millisecond)
		worst = max(worst, w.sending(func() { e.put(w, "k", fmt.Sprint(i+1)) }))
		written.Store(int64(i + 1))
	}
	cancel()
	for _, wait := range waits {
		wait()
	}
	e.show("%s at worst", plural(worst, "request"))
	e.expect(worst <= most, "a put took %s", plural(worst, "request"))
}

// readEagerly reads a number that only grows.
func (e *env) readEagerly(ctx context.Context, r *party, written *atomic.Int64) {
	for ctx.Err() == nil {
		least := written.Load()
		resp, err := r.Get(ctx, "k")
		if ctx.Err() != nil {
			return
		}
		e.must(err)
		var got int64
		if len(resp.Kvs) > 0 {
			_, err = fmt.Sscan(string(resp.Kvs[0].Value), &got)
			e.must(err)
		}
		e.expect(got >= least, "a read returns what was overwritten")
		time.Sleep(100 * time.Microsecond) // the machine is the writer's, too
	}
}

// calm checks a history without faults.
func (e *env) calm(oneClient bool) {
	h := e.record()
	parties := []*party{e.party()}
	for range 2 {
		if oneClient {
			parties = append(parties, e.on(parties[0].cl, parties[0].sent, ttlOption(longTTL)))
		} else {
			parties = append(parties, e.party())
		}
	}
	ctx, cancel := context.WithTimeout(e.ctx, 3*time.Second)
	defer cancel()
	h.play(ctx, parties)()
	h.judge(parties)
}

// operator checks that an owner notices what an operator takes away.
func (e *env) operator(take func(claim *clientv3.GetResponse) error) {
	a := e.party()
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	claim, err := e.plain.Get(e.ctx, prefix+"k")
	e.must(err)
	e.expect(len(claim.Kvs) == 1, "there is no claim")
	e.must(take(claim))
	e.put(e.plain, "k", "2") // as anybody may, now that nobody owns it
	began := time.Now()
	e.until("the owner sees what was written", func() bool { return e.value(a, "k") == "2" })
	e.show("after %d ms", time.Since(began).Milliseconds())
	e.put(a, "k", "3")
	e.agree("k", "3", a, e.plain)
}

func checkPlainPut(e *env) {
	a := e.party()
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	e.put(e.plain, "k", "2")
	time.Sleep(300 * time.Millisecond)
	e.agree("k", "2", a)
}

func checkMixedFleet(e *env) {
	a := e.party()
	other := *e
	other.contender = contenders[theirs]
	b := other.party()
	for i, who := range [][2]*party{{a, b}, {b, a}} {
		owner, writer := who[0], who[1]
		key := fmt.Sprint("k", i)
		e.put(e.plain, key, "1")
		e.own(owner, key)
		e.put(writer, key, "2")
		e.agree(key, "2", owner, writer)
		resp, err := owner.Txn(e.ctx).If(clientv3.Compare(clientv3.Value(key), "=", "2")).Then(clientv3.OpPut(key, "3")).Commit()
		e.must(err)
		e.expect(resp.Succeeded, "a comparison does not hold")
		e.agree(key, "3", owner, writer)
		_, err = writer.Delete(e.ctx, key)
		e.must(err)
		e.agree(key, "", writer, owner, e.plain)
	}
}

// handsOver checks that a key goes from one party to another.
func (e *env) handsOver(owner, writer *party, key string) {
	e.put(owner, key, "1")
	e.own(owner, key)
	e.put(writer, key, "2")
	e.agree(key, "2", owner, writer)
}

func checkNamespace(e *env) {
	inside := func() *party {
		sent := new(etcdtest.Counter)
		cl, err := e.etcd.NewClient(e.etcd.Endpoints(), sent.Option())
		e.must(err)
		cl.KV = namespace.NewKV(cl.KV, "space/")
		cl.Watcher = namespace.NewWatcher(cl.Watcher, "space/")
		cl.Lease = namespace.NewLease(cl.Lease, "space/")
		return e.on(cl, sent, ttlOption(longTTL))
	}
	e.put(e.plain, "k", "outside")
	e.handsOver(inside(), inside(), "k")
	e.agree("space/k", "2", e.plain)
	e.agree("k", "outside", e.plain)
}

// ann is a user with rights on the data and on everything under more.
func ann(more string) etcdtest.User {
	all := clientv3.PermissionType(clientv3.PermReadWrite)
	return etcdtest.User{Name: "ann", Password: "secret", Rights: []etcdtest.Right{etcdtest.May(all, "data/"), etcdtest.May(all, more)}}
}

func asAnn() etcdtest.ClientOption { return etcdtest.As("ann", "secret") }

func checkSecure(e *env) {
	e.handsOver(e.party(asAnn()), e.party(asAnn()), "data/k")
}

func checkNoRightsRead(e *env) {
	e.put(e.plain, "data/k", "1")
	e.returns("open and read", within, func() {
		a := e.party(asAnn())
		for range 3 {
			e.agree("data/k", "1", a)
		}
	})
}

// putsAsAnn puts as a user without rights on the claims.
func (e *env) putsAsAnn() (err error) {
	e.returns("open and put", within, func() {
		a := e.party(asAnn())
		err = e.tries(within/2, func(ctx context.Context) error {
			_, err := a.Put(ctx, "data/k", "1")
			return err
		})
	})
	return err
}

func checkNoRightsPut(e *env) { e.must(e.putsAsAnn()) }

func checkNoRightsAnswer(e *env) {
	err := e.putsAsAnn()
	if err == nil {
		e.show("applied")
		return
	}
	e.show("refused")
	e.expect(strings.Contains(err.Error(), "permission denied"), "%v", err)
}
