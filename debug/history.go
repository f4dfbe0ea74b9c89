package debug

import (
	"sync"
	"time"

	"github.com/etcd-leasing/leasing"
)

const (
	every = 10 * time.Second
	kept  = 360 // intervals, and so an hour
)

// sample is what the counters said at a time.
type sample struct {
	at                   time.Time
	hits, misses, writes uint64
	keys, leases         int
}

func sampleOf(s leasing.Stats, at time.Time) sample {
	return sample{
		at: at, hits: s.Hits, misses: s.Misses(), writes: s.Writes, keys: s.Entries, leases: s.Leases,
	}
}

// history is a ring of samples.
type history struct {
	mu   sync.Mutex // guards the rest; nothing is called under it
	ring [kept + 1]sample
	n    int // how many were taken; the next goes to n modulo the length
}

func (h *history) add(s sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring[h.n%len(h.ring)] = s
	h.n++
}

// samples are those that are kept, the oldest first.
func (h *history) samples() []sample {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := max(0, h.n-len(h.ring))
	out := make([]sample, 0, h.n-first)
	for i := first; i < h.n; i++ {
		out = append(out, h.ring[i%len(h.ring)])
	}
	return out
}

// leastInterval is how long what happened since the latest sample must have lasted to be told by itself.
const leastInterval = time.Second

// intervals is what happened from each sample to the next, and from the last one to now.
func (h *history) intervals(now sample) []interval {
	samples := h.samples()
	if now.at.Sub(samples[len(samples)-1].at) >= leastInterval {
		samples = append(samples, now)
	}
	out := make([]interval, 0, len(samples))
	for i := 1; i < len(samples); i++ {
		out = append(out, between(samples[i-1], samples[i]))
	}
	return out
}

// interval is what happened from one time to another, and how it stood at its end.
type interval struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Hits     uint64    `json:"hits"`
	Misses   uint64    `json:"misses"`
	HitRatio *float64  `json:"hit_ratio"`
	Writes   uint64    `json:"writes"`
	Keys     int       `json:"owned_keys"`
	Leases   int       `json:"leases"`
}

func between(a, b sample) interval {
	hits, misses := b.hits-a.hits, b.misses-a.misses
	return interval{
		From: a.at, To: b.at, Hits: hits, Misses: misses, HitRatio: ratio(hits, misses),
		Writes: b.writes - a.writes, Keys: b.keys, Leases: b.leases,
	}
}

// join is the whole of some intervals, each of which begins where the one before ends.
func join(ins []interval) interval {
	out := ins[len(ins)-1]
	out.From = ins[0].From
	out.Hits, out.Misses, out.Writes = 0, 0, 0
	for _, in := range ins {
		out.Hits, out.Misses, out.Writes = out.Hits+in.Hits, out.Misses+in.Misses, out.Writes+in.Writes
		out.Leases = min(out.Leases, in.Leases)
	}
	out.HitRatio = ratio(out.Hits, out.Misses)
	return out
}

// ratio is nil if there were no reads.
func ratio(hits, misses uint64) *float64 {
	if hits+misses == 0 {
		return nil
	}
	r := float64(hits) / float64(hits+misses)
	return &r
}
