package main

import (
	"runtime"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func costRows() []*row {
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
		{name: "Two readers of one key both read it from memory", leased: true, check: checkTwoReaders,
			known: "a key is owned by one client at a time"},
		{name: "A put of an unclaimed key takes one commit", check: func(e *env) { e.putTakes(unclaimed, 1) }},
		{name: "A put of an owned key takes one commit", check: func(e *env) { e.putTakes(owned, 1) }},
		{name: "A put of a foreign key takes three commits", leased: true, check: func(e *env) { e.putTakes(foreign, 3) }},
		{name: "A delete of a foreign key takes three commits", leased: true, check: checkForeignDelete},
		{name: "A range delete of keys that nobody owns takes one request", check: checkRangeDelete,
			known: "it lists the claims of the range first"},
		{name: "There is no goroutine for each key, in the client or in etcd", check: checkGoroutines},
		{name: "There is no watch for each key", check: checkWatches},
		{name: "There is no watch for each hand-over", leased: true, check: checkHandOverWatches},
		{name: "An owned key with a value of 100 bytes takes less than 2 KiB of memory, what etcd keeps in the same process counted", leased: true, check: checkMemory},
		{name: "Reads leave nothing in etcd", check: checkReadsLeaveNothing,
			known: "what was read stays owned until another asks for it: a claim in etcd for each key"},
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

func checkTwoReaders(e *env) {
	a, b := e.party(), e.party()
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	e.value(b, "k")
	n := e.reads(b, "k", 100)
	e.expect(n == 0, "%s of the second reader", plural(n, "request"))
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

const manyKeys = 400

// ownMany has a party read many keys.
func (e *env) ownMany(p *party, base string, n int) {
	e.together(20, func(i int) {
		for j := i; j < n; j += 20 {
			e.value(p, numbered(base, j))
		}
	})
}

func checkGoroutines(e *env) {
	a := e.party()
	e.ownMany(a, "few", 20)
	before := runtime.NumGoroutine()
	e.ownMany(a, "many", manyKeys)
	// The server's own come and go.
	most := before + manyKeys/10
	for end := time.Now().Add(3 * time.Second); runtime.NumGoroutine() > most && time.Now().Before(end); {
		e.pause(10 * time.Millisecond)
	}
	n := runtime.NumGoroutine()
	each := max(0, float64(n-before)/manyKeys)
	e.show("%.1f goroutines a key", each)
	e.expect(n <= most, "%d keys have brought about %.0f%% as many goroutines", manyKeys, 100*each)
}

func checkWatches(e *env) {
	a := e.party()
	e.ownMany(a, "few", 20)
	before := a.sent.Of("Watch")
	e.ownMany(a, "many", manyKeys)
	e.pause(500 * time.Millisecond) // for those that are made in the background
	n := a.sent.Of("Watch") - before
	e.show("%.1f watches a key", float64(n)/manyKeys)
	e.expect(n <= manyKeys/10, "%s for %d keys", plural(n, "watch request"), manyKeys)
}

func checkHandOverWatches(e *env) {
	const keys = 50
	a, b := e.party(), e.party()
	e.ownMany(b, "k", keys)
	before := a.sent.Of("Watch") + b.sent.Of("Watch")
	for i := range keys {
		e.put(a, numbered("k", i), "1")
	}
	n := a.sent.Of("Watch") + b.sent.Of("Watch") - before
	e.show("%.1f watch requests a hand-over", float64(n)/keys)
	e.expect(n <= keys/10, "%s for %d hand-overs", plural(n, "watch request"), keys)
}

func checkReadsLeaveNothing(e *env) {
	a := e.party()
	e.ownMany(a, "k", manyKeys)
	e.show("%d claims of %d keys", e.claims(), manyKeys)
	e.expect(e.claims() == 0, "there is a claim for each key")
}

func checkMemory(e *env) {
	const keys = 3000
	a := e.party()
	fill := func(base string, n int) {
		e.together(20, func(i int) {
			for j := i; j < n; j += 20 {
				e.put(e.plain, numbered(base, j), strings.Repeat("v", 100))
			}
		})
		e.ownMany(a, base, n)
	}
	fill("few", 20)
	before := e.memory()
	fill("many", keys)
	each := max(0, float64(e.memory()-before)/keys/1024)
	e.show("%.1f KiB a key", each)
	e.expect(each < 2, "it takes %.1f KiB", each)
}

// memory returns what this process uses in heap and stacks, without etcd: it is
// stopped meanwhile.
func (e *env) memory() int64 {
	e.etcd.Stop(0)
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	e.must(e.etcd.TryRestart(0))
	return int64(m.HeapAlloc + m.StackInuse)
}
