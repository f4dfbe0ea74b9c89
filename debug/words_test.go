package debug

import (
	"strings"
	"testing"
	"time"

	"github.com/etcd-leasing/leasing"
)

func TestNumbersForPeople(t *testing.T) {
	f := func(f float64) *float64 { return &f }
	for _, c := range []struct{ got, want string }{
		{count(0), "0"}, {count(999), "999"}, {count(1000), "1,000"}, {count(1234567), "1,234,567"},
		{percent(nil), "–"}, {percent(f(0)), "0 %"}, {percent(f(0.12345)), "12.3 %"}, {percent(f(0.99999)), "99.9 %"}, {percent(f(1)), "100 %"},
		{size(0), "0 B"}, {size(999), "999 B"}, {size(1234), "1.23 kB"}, {size(45_600_000), "45.6 MB"}, {size(7_000_000_000_000), "7e+03 GB"},
		{human(nil), "–"}, {human(f(0)), "0 µs"}, {human(f(0.00025)), "250 µs"}, {human(f(0.0123)), "12.3 ms"},
		{human(f(1.5)), "1.5 s"}, {human(f(60)), "1m0s"}, {human(f(3723.4)), "1h2m3s"},
		{plural(1, "lease"), "1 lease"}, {plural(1000, "lease"), "1,000 leases"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

// A key is shown as it is if it can be read so, and never at more than its length allows.
func TestShownKeys(t *testing.T) {
	if k := shown("a/b"); k != (shownKey{Text: "a/b"}) {
		t.Errorf("a plain key is shown as %+v", k)
	}
	if k := shown(""); k.Text != `""` {
		t.Errorf("the empty key is shown as %+v", k)
	}
	long := "begin" + strings.Repeat("é", 100) + "end"
	if k := shown(long); k.Title != long || k.Bytes != len(long) || len([]rune(k.Text)) != maxShown+1 ||
		!strings.HasPrefix(k.Text, "begin") || !strings.HasSuffix(k.Text, "end") {
		t.Errorf("a long key is shown as %+v", k)
	}
	huge := strings.Repeat("\x00", 1<<20)
	if k := shown(huge); len(k.Title) > 5*maxTitle || !strings.HasSuffix(k.Title, "…") || k.Bytes != 1<<20 {
		t.Errorf("a huge key has a title of %d bytes", len(k.Title))
	}
}

func TestQuantiles(t *testing.T) {
	bounds := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
	for _, c := range []struct {
		counts   []uint64
		p50, p99 float64
	}{
		{[]uint64{100, 0, 0, 0}, 0.5, 0.99},
		{[]uint64{0, 0, 100, 0}, 3, 3.98},
		{[]uint64{50, 0, 50, 0}, 1, 3.96},
		{[]uint64{0, 10, 0, 90}, 4, 4},
		{[]uint64{0, 0, 0, 1}, 4, 4},
	} {
		h := histogramOf(leasing.Histogram{Bounds: bounds, Counts: c.counts})
		if h.P50 == nil || h.P99 == nil || *h.P50 != c.p50 || *h.P99 != c.p99 {
			t.Errorf("%v: half within %s, 99 %% within %s, want %v and %v", c.counts, human(h.P50), human(h.P99), c.p50, c.p99)
		}
		if last := h.Buckets[3]; last.UpTo != nil || last.Count != c.counts[3] || *h.Buckets[2].UpTo != 4 {
			t.Errorf("%v: the buckets are %+v", c.counts, h.Buckets)
		}
	}
	if h := histogramOf(leasing.Histogram{Bounds: bounds, Counts: make([]uint64, 4)}); h.P50 != nil || h.P99 != nil {
		t.Errorf("quantiles of nothing: %v, %v", *h.P50, *h.P99)
	}
}

// The line has a step for each interval, and a gap where nobody read.
func TestChart(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds int, hits, misses uint64, leases int) sample {
		return sample{at: now.Add(time.Duration(seconds-600) * time.Second), hits: hits, misses: misses, leases: leases}
	}
	var h history
	for _, s := range []sample{at(0, 0, 0, 1), at(150, 3, 1, 1), at(300, 4, 2, 1), at(450, 4, 2, 0)} {
		h.add(s)
	}
	c := chartOf(h.intervals(at(600, 4, 4, 1)), now)
	if want := "M0.0 40.0H180.0V80.0H360.0M540.0 160.0H720.0"; c.Line != want {
		t.Errorf("the line is %s, want %s", c.Line, want)
	}
	if want := "M0.0 160V40.0H180.0V80.0H360.0V160ZM540.0 160V160.0H720.0V160Z"; c.Area != want {
		t.Errorf("the area is %s, want %s", c.Area, want)
	}
	if len(c.Deaf) != 1 || c.Deaf[0] != (stretch{360, 180}) {
		t.Errorf("without a lease: %v", c.Deaf)
	}
	if want := "At least 0 %, at most 75 %, 0 % in the latest interval with reads."; c.Means != want {
		t.Errorf("it means %q, want %q", c.Means, want)
	}
	if c := chartOf(nil, now); c.Line != "" || c.Span != 10*time.Minute || c.Means != "There were no reads in this time." {
		t.Errorf("a chart of nothing: %+v", c)
	}
}

// As much time is drawn as there is, in steps, and an hour at most.
func TestChartSpan(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for age, want := range map[time.Duration]time.Duration{
		time.Second: 10 * time.Minute, 11 * time.Minute: 30 * time.Minute, 31 * time.Minute: time.Hour, 61 * time.Minute: time.Hour,
	} {
		half := 0.5
		c := chartOf([]interval{{From: now.Add(-age), To: now, HitRatio: &half, Leases: 1}}, now)
		if c.Span != want || age > want && !strings.HasPrefix(c.Line, "M0.0 80.0H720.0") {
			t.Errorf("after %v, %v are drawn, want %v: %s", age, c.Span, want, c.Line)
		}
	}
}

// Numbers are joined by five minutes, the latest first.
func TestRecent(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var h history
	for i := range uint64(40) {
		h.add(sample{at: now.Add(time.Duration(i)*every - 390*time.Second), hits: 3 * i, misses: i, writes: i, keys: int(i), leases: 1})
	}
	got := recent(h.intervals(sample{at: now}), now)
	if len(got) != 2 || got[0].Hits != 90 || got[0].Misses != 30 || got[0].Writes != 30 || got[0].Keys != 39 || *got[0].HitRatio != 0.75 ||
		got[0].To != now || got[0].To.Sub(got[0].From) != 5*time.Minute || got[1].Hits != 27 || got[1].To != got[0].From {
		t.Errorf("%+v", got)
	}
}
