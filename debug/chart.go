package debug

import (
	"fmt"
	"strings"
	"time"
)

// The size of the drawings in units of their own: a browser stretches them.
const (
	chartWidth, chartHeight = 720, 160
	barWidth, barHeight     = 10, 60
)

// chart is the hit ratio over time, as paths of an SVG.
type chart struct {
	Span       time.Duration // that it covers, up to now
	Line, Area string
	Deaf       []stretch // when there was no live lease
	Means      string    // in words
}

// stretch is some of the width.
type stretch struct{ X, Width float64 }

func chartOf(ins []interval, now time.Time) chart {
	c := chart{Span: spanOf(ins, now), Means: meaning(ins)}
	x := func(t time.Time) float64 { return chartWidth * max(0, 1-float64(now.Sub(t))/float64(c.Span)) }
	var line, area strings.Builder
	open := false // whether the pen is down: it is up where there were no reads
	for _, in := range ins {
		from, to := x(in.From), x(in.To)
		if in.Leases == 0 {
			c.Deaf = append(c.Deaf, stretch{from, to - from})
		}
		if in.HitRatio == nil {
			open = closeArea(&area, open)
			continue
		}
		y := chartHeight * (1 - *in.HitRatio)
		if open {
			fmt.Fprintf(&line, "V%.1fH%.1f", y, to)
		} else {
			fmt.Fprintf(&line, "M%.1f %.1fH%.1f", from, y, to)
			fmt.Fprintf(&area, "M%.1f %d", from, chartHeight)
			open = true
		}
		fmt.Fprintf(&area, "V%.1fH%.1f", y, to)
	}
	closeArea(&area, open)
	c.Line, c.Area = line.String(), area.String()
	return c
}

// closeArea takes the area down to the axis, and lifts the pen.
func closeArea(area *strings.Builder, open bool) bool {
	if open {
		fmt.Fprintf(area, "V%dZ", chartHeight)
	}
	return false
}

// spanOf is how much time is drawn: as little of these as holds everything.
func spanOf(ins []interval, now time.Time) time.Duration {
	for _, span := range []time.Duration{10 * time.Minute, 30 * time.Minute} {
		if len(ins) == 0 || now.Sub(ins[0].From) <= span {
			return span
		}
	}
	return kept * every
}

// meaning tells those who do not see the line about it.
func meaning(ins []interval) string {
	var low, high, latest *float64
	for _, in := range ins {
		r := in.HitRatio
		if r == nil {
			continue
		}
		if low == nil || *r < *low {
			low = r
		}
		if high == nil || *r > *high {
			high = r
		}
		latest = r
	}
	if latest == nil {
		return "There were no reads in this time."
	}
	return fmt.Sprintf("At least %s, at most %s, %s in the latest interval with reads.", percent(low), percent(high), percent(latest))
}

// bars is a histogram, as columns of an SVG.
type bars struct {
	Name, Caption string
	Of            histogram
	Width, Height int
	Columns       []column
	First, Last   string // bounds
}

type column struct {
	X           int
	Top, Height float64
	Means       string
}

func barsOf(name, caption string, h histogram) bars {
	b := bars{Name: name, Caption: caption, Of: h, Width: barWidth * len(h.Buckets), Height: barHeight}
	most := uint64(1)
	for _, u := range h.Buckets {
		most = max(most, u.Count)
	}
	low := 0.0
	for i, u := range h.Buckets {
		height := barHeight * float64(u.Count) / float64(most)
		if u.Count > 0 {
			height = max(height, 1) // one is not to look like none
		}
		means := "more than " + human(&low)
		if u.UpTo != nil {
			means += ", up to " + human(u.UpTo)
			low = *u.UpTo
		}
		b.Columns = append(b.Columns, column{i * barWidth, barHeight - height, height, means + ": " + count(u.Count)})
	}
	b.First, b.Last = human(h.Buckets[0].UpTo), human(&low)
	return b
}
