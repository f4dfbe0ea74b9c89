package main

import (
	"math"
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want float64
	}{
		{nil, math.NaN()},
		{[]float64{3}, 3},
		{[]float64{3, 1}, 2},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		before := slices.Clone(tt.in)
		if got := median(tt.in); got != tt.want && !(math.IsNaN(got) && math.IsNaN(tt.want)) {
			t.Errorf("median of %v is %v, not %v", tt.in, got, tt.want)
		}
		if !slices.Equal(tt.in, before) {
			t.Errorf("median has sorted %v", before)
		}
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // 100 to 1
	}
	for _, tt := range []struct {
		in   []float64
		p    float64
		want float64
	}{
		{hundred, 0, 1},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 99.5, 100},
		{hundred, 100, 100},
		{[]float64{7}, 1, 7},
		{[]float64{1, 2}, 50, 1},
		{[]float64{1, 2}, 51, 2},
		{nil, 50, math.NaN()},
	} {
		if got := percentile(tt.in, tt.p); got != tt.want && !(math.IsNaN(got) && math.IsNaN(tt.want)) {
			t.Errorf("percentile %v of %d figures is %v, not %v", tt.p, len(tt.in), got, tt.want)
		}
	}
	if got, want := quantiles([]float64{3, 1, 2}, 3), []float64{1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("quantiles %v, not %v", got, want)
	}
}

func TestUnits(t *testing.T) {
	for _, tt := range []struct {
		unit unit
		v    float64
		want string
	}{
		{nanoseconds, 221.4, "221 ns"},
		{nanoseconds, 1280, "1.28 µs"},
		{nanoseconds, 9_032e6, "9.03 s"},
		{nanoseconds, 20e6, "20 ms"},
		{perSecond, 19570, "19,570/s"},
		{bytesOf, 10_089, "10,089 B"},
		{bytesOf, 612.4e6, "612 MB"},
		{count, 2, "2"},
		{count, 0, "0"},
		{times, 1.104, "1.1 ×"},
		{times, 0.00123, "0.0012 ×"},
		{perSecond, math.NaN(), "–"},
		{nanoseconds, -1234, "-1,234 ns"},
	} {
		if got := tt.unit.show(tt.v); got != tt.want {
			t.Errorf("%v is shown as %q, not %q", tt.v, got, tt.want)
		}
	}
}
