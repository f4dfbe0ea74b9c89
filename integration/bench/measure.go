package main

import (
	"math"
	"runtime"
	"sync/atomic"
	"time"
)

// cost is what one operation takes.
type cost struct{ ns, allocs, bytes float64 }

// less returns what c takes beyond o.
func (c cost) less(o cost) cost { return cost{c.ns - o.ns, c.allocs - o.allocs, c.bytes - o.bytes} }

// cost does op again and again, one after the other, and returns the mean. Allocations
// are counted in whole numbers, as go test does: what the client does in the background
// makes a few, too.
func (e *env) cost(op func(i int)) cost {
	for i := range 1000 {
		op(i)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, begin := 0, time.Now()
	// The clock is read seldom, so that its own cost does not count.
	for time.Since(begin) < e.sizes.spell {
		for range 1000 {
			op(n)
			n++
		}
	}
	ns := float64(time.Since(begin))
	runtime.ReadMemStats(&after)
	each := func(total float64) float64 { return total / float64(n) }
	return cost{each(ns), math.Floor(each(float64(after.Mallocs - before.Mallocs))), each(float64(after.TotalAlloc - before.TotalAlloc))}
}

// latencies does op for each key, one after the other, and returns how long
// each took, in nanoseconds.
func (e *env) latencies(keys []string, op func(key string)) []float64 {
	runtime.GC()
	defer e.profile()()
	all := make([]float64, len(keys))
	for i, k := range keys {
		begin := time.Now()
		op(k)
		all[i] = float64(time.Since(begin))
	}
	return all
}

// inTurn does all ops for each key, one after the other, and returns how long each of
// them took. The disk is not the same from one second to the next: what is done in turn
// can be compared.
func (e *env) inTurn(keys []string, ops ...func(key string)) [][]float64 {
	runtime.GC()
	defer e.profile()()
	all := make([][]float64, len(ops))
	for _, k := range keys {
		for i, op := range ops {
			begin := time.Now()
			op(k)
			all[i] = append(all[i], float64(time.Since(begin)))
		}
	}
	return all
}

// rate has so many goroutines do op again and again for a time, and returns
// how many there were in a second. i counts for each goroutine.
func (e *env) rate(width int, d time.Duration, op func(g, i int)) float64 {
	defer e.profile()()
	var total atomic.Int64
	var over atomic.Bool
	begin := time.Now()
	timer := time.AfterFunc(d, func() { over.Store(true) })
	defer timer.Stop()
	e.together(width, func(g int) {
		i := 0
		for ; !over.Load(); i++ {
			op(g, i)
		}
		total.Add(int64(i))
	})
	return float64(total.Load()) / time.Since(begin).Seconds()
}

// rateOf has so many goroutines share out n operations among them, and returns
// how many that makes in a second.
func (e *env) rateOf(width, n int, op func(i int)) float64 {
	runtime.GC()
	defer e.profile()()
	begin := time.Now()
	e.share(width, n, op)
	return float64(n) / time.Since(begin).Seconds()
}

// memory returns what this process uses in heap and stacks.
func memory() float64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}
