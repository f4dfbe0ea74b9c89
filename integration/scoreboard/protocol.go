package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

func protocolRows() []*row {
	return []*row{
		{name: "A key changes hands without waiting for a lease to end", leased: true, check: checkHandOver},
		{name: "A key that has changed hands is read from memory at once", leased: true, check: checkOwnedAgain,
			known: "it rests for 250 ms and more, so that readers do not hold up writers"},
		{name: "Eager readers do not hold up a writer: at most six requests a put", check: checkNotStarved},
		{name: "A range delete goes through while another reads ever new keys there", check: checkBusyRange},
		{name: "On a calm day, three parties are linearizable", check: func(e *env) { e.calm(false) }},
		{name: "On a calm day, three parties on one client are linearizable", check: func(e *env) { e.calm(true) }},
		{name: "A claim that an operator deletes is noticed", leased: true, check: func(e *env) {
			e.operator(func(claim *clientv3.GetResponse) error {
				_, err := e.plain.Delete(e.ctx, string(claim.Kvs[0].Key))
				return err
			})
		}},
		{name: "A lease that an operator revokes is noticed before its next renewal", leased: true, check: func(e *env) {
			e.operator(func(claim *clientv3.GetResponse) error {
				_, err := e.plain.Revoke(e.ctx, clientv3.LeaseID(claim.Kvs[0].Lease))
				return err
			})
		}},
		{name: "A put of a plain client is seen by an owner", check: checkPlainPut,
			known: "every writer of the keys must use a leasing KV"},
		{name: "Keys go to clients of etcd's leasing package and back", leased: true, check: checkMixedFleet},
		{name: "A lease that was handed in survives Close", leased: true, check: checkHandedInLease},
	}
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

func checkBusyRange(e *env) {
	a, b := e.party(), e.party()
	ctx, cancel := context.WithCancel(e.ctx)
	var n atomic.Int64
	wait := e.begin(func() {
		for ctx.Err() == nil {
			_, err := b.Get(ctx, fmt.Sprint("m/", n.Add(1)))
			if ctx.Err() == nil {
				e.must(err)
			}
		}
	})
	e.until("a hundred keys were read", func() bool { return n.Load() > 100 })
	e.returns("the delete", within, func() {
		_, err := a.Delete(e.ctx, "m/", clientv3.WithPrefix())
		e.must(err)
	})
	cancel()
	wait()
}

// calm checks a history without faults.
func (e *env) calm(oneClient bool) {
	h := e.record()
	parties := []*party{e.party()}
	for range 2 {
		if oneClient {
			parties = append(parties, e.on(parties[0].cl, parties[0].sent, contender.TTL(longTTL)))
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
	e.until("the owner sees what was written", func() bool { return e.value(a, "k") == "2" })
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
	other.Contender = contender.All[contender.Theirs]
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

func checkHandedInLease(e *env) {
	lease := e.lease()
	a := e.join(e.etcd.Endpoints(), concurrency.WithLease(lease))
	e.own(a, "k")
	a.close()
	resp, err := e.plain.TimeToLive(e.ctx, lease)
	e.must(err)
	e.expect(resp.TTL > 0, "the lease is revoked")
}
