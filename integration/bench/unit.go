package main

import (
	"fmt"
	"math"
	"strings"
)

// unit is what a figure counts.
type unit uint8

const (
	nanoseconds unit = iota
	perSecond
	bytesOf
	count
	times // a ratio
)

// show returns a figure with three digits and its unit.
func (u unit) show(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case u == nanoseconds:
		return showDuration(v)
	case u == perSecond:
		return thousands(v) + "/s"
	case u == bytesOf:
		return showBytes(v)
	case u == times:
		return digits(v) + " ×"
	}
	return digits(v)
}

func showDuration(ns float64) string {
	for _, step := range []struct {
		size float64
		name string
	}{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}} {
		if ns >= step.size {
			return digits(ns/step.size) + " " + step.name
		}
	}
	return digits(ns) + " ns"
}

func showBytes(v float64) string {
	if v >= 1e6 {
		return digits(v/1e6) + " MB"
	}
	return thousands(v) + " B"
}

// digits shows three digits, and more of what is 1,000 and above.
func digits(v float64) string {
	a := math.Abs(v)
	switch {
	case a >= 100:
		return thousands(v)
	case a >= 10:
		return trim(fmt.Sprintf("%.1f", v))
	case a < 0.1:
		return fmt.Sprintf("%.2g", v)
	}
	return trim(fmt.Sprintf("%.2f", v))
}

func trim(s string) string { return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") }

// thousands shows a whole number with commas.
func thousands(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
