package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// manyExperiments measure what it is to own many keys.
func manyExperiments(s *sizes) []*experiment {
	closing := thousands(float64(s.closing))
	million := thousands(float64(s.million))
	return []*experiment{
		{who: leased, measure: measureMemory, rows: []*row{
			{name: "memory per owned key", unit: bytesOf, want: most(600, "600 B"), note: "16 B of key and value each; heap and stacks of the client's process" + s.fewer(s.owned, s.ownedTheirs)},
			{name: "goroutines per owned key", unit: count, want: most(0, "0")},
		}},
		{measure: measureClosing, rounds: 3, rows: []*row{
			{name: fmt.Sprintf("closing a KV that owns %s keys: worst put of a bystander", closing), unit: nanoseconds, want: most(20e6, "20 ms"),
				note: "plain: nothing is closed; three rounds" + s.fewer(s.closing, s.closingTheirs) + ", as Close of more may not return for minutes"},
			{name: fmt.Sprintf("closing a KV that owns %s keys: how long it takes", closing), unit: nanoseconds},
		}},
		{who: []int{floorSubject, contender.Ours}, measure: measureMillion, rounds: 1, rows: []*row{
			{name: million + " owned keys in one KV: memory", unit: bytesOf, want: most(1e9, "1 GB"), note: "Config.MaxKeys is set; one round; the floor is a map"},
			{name: million + " owned keys in one KV: hits of a thousand of them", unit: times, want: most(1.5, "1.5 × with a thousand"), note: "relative to owning only these"},
			{name: million + " owned keys in one KV: hits all over them", unit: times, want: most(1.5, "1.5 × with a thousand"), note: "likewise; the processor's caches do not hold them"},
		}},
	}
}

// goroutines counts those of this process, when those that are about to end
// have done so.
func goroutines() float64 {
	time.Sleep(50 * time.Millisecond)
	return float64(runtime.NumGoroutine())
}

func measureMemory(e *env) []float64 {
	n := e.of(e.sizes.owned, e.sizes.ownedTheirs)
	keys, p := e.keys('k', n), e.party()
	e.fill(keys, 16)
	few := e.keys('w', 200) // whatever is needed once for all
	e.own(p, 'w', few, crowd)
	before, running := memory(), goroutines()
	e.own(p, 'k', keys, crowd)
	perKey := func(d float64) float64 { return max(0, d/float64(n)) }
	figures := []float64{perKey(memory() - before), perKey(goroutines() - running)}
	runtime.KeepAlive(keys)
	if figures[1] < 0.01 {
		figures[1] = 0 // a connection's, not the keys'
	}
	return figures
}

// measureClosing has a bystander put while a KV with many keys is closed, and
// for a moment after. With the plain client nothing happens meanwhile.
func measureClosing(e *env) []float64 {
	closeKV := func() { time.Sleep(e.sizes.spell) }
	if e.leased() {
		p, _ := e.owner('k', e.of(e.sizes.closing, e.sizes.closingTheirs), 16)
		closeKV = p.close
	}
	bystander := e.client()
	for range 20 {
		e.put(bystander, "bystander")
	}
	runtime.GC()
	took := math.NaN()
	over := make(chan struct{})
	go func() {
		defer close(over)
		begin := time.Now()
		if within(closeLimit, closeKV) {
			took = float64(time.Since(begin))
		}
		time.Sleep(100 * time.Millisecond)
	}()
	worst := e.worstPut(bystander, over)
	switch {
	case !e.leased():
		return []float64{worst}
	case math.IsNaN(took):
		e.fail("Close takes more than %v", closeLimit)
	}
	return []float64{worst, took}
}

// worstPut puts until over is closed, and returns how long the longest took.
func (e *env) worstPut(kv clientv3.KV, over <-chan struct{}) float64 {
	var worst time.Duration
	for {
		begin := time.Now()
		e.put(kv, "bystander")
		worst = max(worst, time.Since(begin))
		select {
		case <-over:
			return float64(worst)
		default:
		}
	}
}

// millionWidth is how many reads claim keys at the same time, so that batches
// are full.
const millionWidth = 512

func measureMillion(e *env) []float64 {
	few := e.keys('f', hitKeys)
	many := e.keys('m', e.sizes.million)
	shuffled := append([]string(nil), many...)
	r := rand.New(rand.NewPCG(1, 1))
	r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	hits := func(reader func(*env, []string) func(int), keys []string) float64 {
		read := reader(e, keys)
		return e.cost(func(i int) { read(i % len(keys)) }).ns
	}
	if e.subject == floorSubject {
		alone := hits(newFloor(few, 16).reader, few)
		before := memory()
		f := newFloor(append(few, many...), 16)
		used := memory() - before
		return []float64{used, hits(f.reader, few) / alone, hits(f.reader, shuffled) / alone}
	}
	p := e.hoarder(len(few) + len(many))
	e.fill(few, 16)
	e.fill(many, 16)
	e.own(p, 'f', few, crowd)
	alone := hits(p.reader, few)
	before := memory()
	e.own(p, 'm', many, millionWidth)
	used := memory() - before
	return []float64{used, hits(p.reader, few) / alone, hits(p.reader, shuffled) / alone}
}
