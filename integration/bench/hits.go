package main

import (
	"fmt"
	"runtime"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	hitKeys = 1000 // how many keys are read in turn

	// hitRepeats is for the noise: a turn at reads from memory takes a second, in which
	// anything else on the machine shows.
	hitRepeats = 3
)

func hitExperiments() []*experiment {
	return []*experiment{
		cachedGet(16, "16 B"),
		cachedGet(1024, "1 KiB"),
		{who: withFloor, measure: measureCores, repeats: hitRepeats, rows: []*row{
			{name: "cached Get on one core", unit: perSecond},
			{name: "cached Get on 2 cores, distinct keys", unit: times, want: least(1.8, "1.8 × one core"), note: "relative to one core"},
			{name: "cached Get on 2 cores, one key", unit: times, want: least(1.8, "1.8 × one core"), note: "relative to one core"},
		}},
		{who: []int{floorSubject}, measure: measureAllocation, repeats: hitRepeats, rows: []*row{
			{name: "allocating a reply and nothing else, on 2 cores", unit: times, note: "relative to one core"},
		}},
		{who: leased, measure: measureTxnHit, repeats: hitRepeats, rows: []*row{
			{name: "cached Txn", unit: nanoseconds, want: most(800, "800 ns"), note: "one comparison and two gets, beyond what building its arguments costs"},
			{name: "cached Txn, allocations", unit: count, want: most(8, "8"), note: "likewise"},
			{name: "building the arguments of the Txn", unit: nanoseconds},
			{name: "building the arguments of the Txn, allocations", unit: count},
		}},
	}
}

func cachedGet(size int, name string) *experiment {
	return &experiment{
		who: withFloor, repeats: hitRepeats,
		rows: []*row{
			{name: fmt.Sprintf("cached Get, %s value", name), unit: nanoseconds, want: mostOf(1.1, floorSubject)},
			{name: fmt.Sprintf("cached Get, %s value, allocations", name), unit: count, want: most(2, "2")},
			{name: fmt.Sprintf("cached Get, %s value, allocated", name), unit: bytesOf},
		},
		measure: func(e *env) []float64 {
			read := e.reader(hitKeys, size)
			c := e.cost(func(i int) { read(i % hitKeys) })
			return []float64{c.ns, c.allocs, c.bytes}
		},
	}
}

// reader returns a function that reads the i-th of n keys from memory.
func (e *env) reader(n, size int) func(i int) {
	if e.subject == floorSubject {
		keys := e.keys('k', n)
		return newFloor(keys, size).reader(e, keys)
	}
	p, keys := e.owner('k', n, size)
	return p.reader(e, keys)
}

func (f *floor) reader(e *env, keys []string) func(i int) {
	return func(i int) {
		if f.get(keys[i]) == nil {
			e.fail("not in memory")
		}
	}
}

func (p *party) reader(e *env, keys []string) func(i int) {
	return func(i int) {
		if _, err := p.Get(e.ctx, keys[i]); err != nil {
			e.fail("%w", err)
		}
	}
}

// measureCores compares one core with two. With one, the garbage of the reads
// is collected on that one, too.
func measureCores(e *env) []float64 {
	read := e.reader(hitKeys, 16)
	const half = hitKeys / 2
	distinct := func(g, i int) { read(g*half + i%half) }
	one := e.onCores(1, distinct)
	return []float64{one, e.onCores(2, distinct) / one, e.scaling(func(int, int) { read(0) })}
}

// onCores is the rate of op on n cores.
func (e *env) onCores(n int, op func(g, i int)) float64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
	runtime.GC()
	return e.rate(n, e.sizes.spell, op)
}

// scaling is the rate of op on two cores by that on one.
func (e *env) scaling(op func(g, i int)) float64 { return e.onCores(2, op) / e.onCores(1, op) }

// measureAllocation measures what the allocator and the collection of its garbage
// leave of the second core to any read that allocates its reply.
func measureAllocation(e *env) []float64 {
	var kept [2]struct {
		reply *floorReply
		_     [64]byte // so that the cores do not write to the same memory
	}
	return []float64{e.scaling(func(g, _ int) { kept[g].reply = new(floorReply) })}
}

// measureTxnHit measures the transaction with its arguments and the arguments
// alone.
func measureTxnHit(e *env) []float64 {
	p, keys := e.owner('k', 2, 16)
	var cmps []clientv3.Cmp
	var ops []clientv3.Op
	build := func(int) {
		cmps = []clientv3.Cmp{clientv3.Compare(clientv3.Version(keys[0]), ">", 0)}
		ops = []clientv3.Op{clientv3.OpGet(keys[0]), clientv3.OpGet(keys[1])}
	}
	whole := e.cost(func(i int) {
		build(i)
		r, err := p.Txn(e.ctx).If(cmps...).Then(ops...).Commit()
		e.must(err)
		if !r.Succeeded {
			e.fail("the comparison does not hold")
		}
	})
	args := e.cost(build)
	c := whole.less(args)
	return []float64{c.ns, c.allocs, args.ns, args.allocs}
}
