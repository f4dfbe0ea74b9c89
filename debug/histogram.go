package debug

import (
	"time"

	"github.com/etcd-leasing/leasing"
)

// histogram is how long something took.
type histogram struct {
	Count   uint64   `json:"count"`
	Sum     float64  `json:"sum_seconds"`
	P50     *float64 `json:"p50_seconds"`
	P99     *float64 `json:"p99_seconds"`
	Buckets []bucket `json:"buckets"`
}

// bucket counts durations up to a bound, which the last one does not have.
type bucket struct {
	UpTo  *float64 `json:"up_to_seconds"`
	Count uint64   `json:"count"`
}

func histogramOf(h leasing.Histogram) histogram {
	out := histogram{Count: h.Count(), Sum: h.Sum.Seconds(), P50: quantile(h, 0.5), P99: quantile(h, 0.99)}
	for i, n := range h.Counts {
		b := bucket{Count: n}
		if i < len(h.Bounds) {
			b.UpTo = seconds(h.Bounds[i])
		}
		out.Buckets = append(out.Buckets, b)
	}
	return out
}

// quantile estimates how many seconds a share q of the durations took at most: as if those in a bucket
// were spread over it evenly. It is nil if there are none, and the highest bound if that share took longer.
func quantile(h leasing.Histogram, q float64) *float64 {
	rank := q * float64(h.Count())
	if rank == 0 {
		return nil
	}
	low, below := time.Duration(0), 0.0
	for i, bound := range h.Bounds {
		n := float64(h.Counts[i])
		if n > 0 && below+n >= rank {
			return seconds(low + time.Duration(float64(bound-low)*(rank-below)/n))
		}
		low, below = bound, below+n
	}
	return seconds(low)
}

func seconds(d time.Duration) *float64 {
	s := d.Seconds()
	return &s
}
