package leasing

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// How well the cache chooses what to give up, measured on the cache itself.

// popularity picks keys from 0 up, the i-th as often as (i+1)^-skew.
type popularity struct {
	rng *rand.Rand
	sum []float64
}

func newPopularity(keys int, skew float64) *popularity {
	p := &popularity{rng: rand.New(rand.NewPCG(1, uint64(skew*10))), sum: make([]float64, keys)}
	total := 0.0
	for i := range p.sum {
		total += math.Pow(float64(i+1), -skew)
		p.sum[i] = total
	}
	return p
}

func (p *popularity) key() int {
	i, _ := slices.BinarySearch(p.sum, p.rng.Float64()*p.sum[len(p.sum)-1])
	return min(i, len(p.sum)-1)
}

// With 10,000 and 500,000 the differences are nearly the same.
const traceKeys, traceReads = 4_000, 200_000

// zipfTrace is reads of keys whose popularity falls by the law of Zipf.
func zipfTrace(skew float64) []int {
	p := newPopularity(traceKeys, skew)
	out := make([]int, traceReads)
	for i := range out {
		out[i] = p.key()
	}
	return out
}

// scanTrace is the same, with a tenth of the reads in long scans, half of them
// of keys that are read by nothing else.
func scanTrace(skew float64) []int {
	out, scanned := zipfTrace(skew), 0
	for i := range out {
		if i%10_000 >= 9_000 {
			out[i] = scanned % (2 * traceKeys)
			scanned++
		}
	}
	return out
}

// shiftTrace is the same as zipfTrace, but half-way all keys trade places.
func shiftTrace(skew float64) []int {
	out := zipfTrace(skew)
	for i := len(out) / 2; i < len(out); i++ {
		out[i] = (out[i]*7919 + 13) % traceKeys
	}
	return out
}

// offlineLFU is the hit ratio of who knows the whole trace beforehand and keeps
// the keys that are read most in it, from the start.
func offlineLFU(trace []int, size int) float64 {
	counts := make([]int, 2*traceKeys)
	for _, k := range trace {
		counts[k]++
	}
	slices.Sort(counts)
	hits := 0
	for _, n := range counts[len(counts)-size:] {
		hits += n
	}
	return float64(hits) / float64(len(trace))
}

// plainClock is the hit ratio, after the first skip reads, of a clock with one
// bit for each key.
func plainClock(trace []int, size, skip int) float64 {
	ring, hand, hits := make([]int, 0, size), 0, 0
	place, read := make(map[int]int), make([]bool, size)
	for i, k := range trace {
		if at, ok := place[k]; ok {
			read[at] = true
			if i >= skip {
				hits++
			}
			continue
		}
		if len(ring) < size {
			place[k] = len(ring)
			ring = append(ring, k)
			continue
		}
		for read[hand] {
			read[hand] = false
			hand = (hand + 1) % size
		}
		delete(place, ring[hand])
		ring[hand], place[k] = k, hand
		hand = (hand + 1) % size
	}
	return float64(hits) / float64(len(trace)-skip)
}

// hitRatio is that of the cache, after the first skip reads. A read that misses
// claims its key.
func hitRatio(t *testing.T, trace []int, size, skip int) float64 {
	c, now, rev, hits := newCache(size), time.Now(), int64(1), 0
	l := newLease(1, now, time.Hour)
	names := make([]string, 2*traceKeys)
	for i := range names {
		names[i] = fmt.Sprint("key", i)
	}
	for i, k := range trace {
		if c.lookup(names[k]) != nil {
			if i >= skip {
				hits++
			}
			continue
		}
		cl, _, _ := c.join(names[k], now)
		c.send([]*claim{cl}, l, math.MaxInt)
		rev++
		hdr := &etcdserverpb.ResponseHeader{Revision: rev}
		for _, y := range c.settleClaim(cl, claimReply{outcome: applied, hdr: hdr}, now) {
			c.yielded(y, rev, true)
		}
	}
	if bad := inconsistency(c); bad != "" {
		t.Error(bad)
	}
	if n := c.owning.len(); n != size {
		t.Errorf("%d keys are owned in the end, want %d", n, size)
	}
	if n := len(c.owning.past); n > 4*max(size, minPast) {
		t.Errorf("%d keys are remembered that were given up: more than 4 for each of %d", n, size)
	}
	return float64(hits) / float64(len(trace)-skip)
}

// The cache hits within three points as often as one that knows the future and
// keeps the most popular keys, with scans and without.
func TestHitRatioIsNearOfflineLFU(t *testing.T) {
	for _, kind := range []struct {
		name string
		of   func(float64) []int
	}{{"zipf", zipfTrace}, {"with scans", scanTrace}} {
		for _, skew := range pick(testing.Short(), []float64{0.9}, []float64{0.8, 1, 1.2}) {
			trace := kind.of(skew)
			for _, percent := range []int{1, 5, 20} {
				size := traceKeys * percent / 100
				got, best, was := hitRatio(t, trace, size, 0), offlineLFU(trace, size), plainClock(trace, size, 0)
				t.Logf("%-10s %.1f, %2d %% of the keys: %.1f %%; offline LFU %.1f (%+.1f), plain clock %.1f (%+.1f)",
					kind.name, skew, percent, 100*got, 100*best, 100*(got-best), 100*was, 100*(was-best))
				if got < best-0.03 {
					t.Errorf("%s %.1f, %d %%: hit ratio %.3f, that of offline LFU is %.3f", kind.name, skew, percent, got, best)
				}
			}
		}
	}
}

// When other keys become popular, the old ones go. What was read in the second
// half counts, in which all keys have traded places.
func TestHitRatioAfterAShift(t *testing.T) {
	for _, skew := range []float64{0.8, 1.2} {
		trace := shiftTrace(skew)
		for _, percent := range []int{1, 5, 20} {
			size := traceKeys * percent / 100
			got, was, best := hitRatio(t, trace, size, traceReads/2), plainClock(trace, size, traceReads/2), offlineLFU(trace[traceReads/2:], size)
			t.Logf("%.1f, %2d %% of the keys: %.1f %%; offline LFU of the second half %.1f (%+.1f), plain clock %.1f (%+.1f)",
				skew, percent, 100*got, 100*best, 100*(got-best), 100*was, 100*(was-best))
			if got < was-0.03 {
				t.Errorf("%.1f, %d %%: hit ratio %.3f, that of a plain clock is %.3f", skew, percent, got, was)
			}
		}
	}
}
