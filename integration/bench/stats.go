package main

import (
	"math"
	"slices"
)

// median returns the middle of some figures, or the mean of the two in the
// middle; NaN of none.
func median(figures []float64) float64 {
	n := len(figures)
	if n == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(figures))
	return (s[(n-1)/2] + s[n/2]) / 2
}

// percentile returns the least figure that p percent of all do not exceed; NaN
// of none.
func percentile(figures []float64, p float64) float64 {
	if len(figures) == 0 {
		return math.NaN()
	}
	return rank(slices.Sorted(slices.Values(figures)), p)
}

func rank(sorted []float64, p float64) float64 {
	i := int(math.Ceil(p/100*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// quantiles returns n percentiles, evenly spaced from 0 to 100.
func quantiles(figures []float64, n int) []float64 {
	s := slices.Sorted(slices.Values(figures))
	out := make([]float64, n)
	for i := range out {
		out[i] = rank(s, 100*float64(i)/float64(n-1))
	}
	return out
}
