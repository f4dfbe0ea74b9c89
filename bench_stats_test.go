package leasing

import "testing"

// BenchmarkCountHit is what Stats cost a hit: see BenchmarkHit for the whole of it.
func BenchmarkCountHit(b *testing.B) {
	c := newCache(1)
	for b.Loop() {
		if c.count.hits.add()%sampled == 0 {
			c.count.hot.note("key-000000000000")
		}
	}
}
