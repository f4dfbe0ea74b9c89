package leasing

import (
	"fmt"
	"testing"
)

// BenchmarkCountHit is what Stats cost a hit: see BenchmarkHit for the whole of it.
func BenchmarkCountHit(b *testing.B) {
	c := newCache(1)
	for b.Loop() {
		if c.count.hits.add()%sampled == 0 {
			c.count.hot.note("key-000000000000")
		}
	}
}

// A write of thousands of ranges looks at every key that is owned, under the cache's lock.
func BenchmarkWriteOfManyRanges(b *testing.B) {
	c := newCache(100_000)
	ownMany(c, 100_000, 20, 10)
	var ranges []keyRange
	for i := range 15_625 {
		key := fmt.Sprintf("x%05d", i)
		ranges = append(ranges, keyRange{key, key + "a"})
	}
	for b.Loop() {
		w, _ := c.begin(nil, ranges, ranges, false)
		c.settle(w, settlement{outcome: refused})
	}
}
