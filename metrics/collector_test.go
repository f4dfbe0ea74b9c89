package metrics

import (
	"bytes"
	"flag"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/etcd-leasing/leasing"
)

var update = flag.Bool("update", false, "write testdata anew")

// filler gives each number in a struct a value of its own; a duration gets it in seconds.
type filler struct{ given map[float64]string } // the field of each value

// number returns a value that no other field has.
func (f *filler) number(field string) int64 {
	n := int64(1000 + len(f.given))
	f.given[float64(n)] = field
	return n
}

func (f *filler) duration(field string) time.Duration {
	return time.Duration(f.number(field)) * time.Second
}

func (f *filler) histogram(field string) leasing.Histogram {
	return leasing.Histogram{
		Bounds: []time.Duration{time.Millisecond, time.Second}, Counts: []uint64{2, 3, 4}, Sum: f.duration(field),
	}
}

func (f *filler) fill(t *testing.T, prefix string, v reflect.Value) {
	t.Helper()
	for i := range v.NumField() {
		name, field := prefix+v.Type().Field(i).Name, v.Field(i)
		switch field.Interface().(type) {
		case uint64:
			field.SetUint(uint64(f.number(name)))
		case int, int64:
			field.SetInt(f.number(name))
		case time.Duration:
			field.Set(reflect.ValueOf(f.duration(name)))
		case leasing.Histogram:
			field.Set(reflect.ValueOf(f.histogram(name)))
		case leasing.Claims, leasing.Forwards:
			f.fill(t, name+".", field)
		default:
			t.Fatalf("Stats.%s is a %v, which this test cannot fill", name, field.Type())
		}
	}
}

// filled is a Stats in which no two numbers are alike, and what they are.
func filled(t *testing.T) (s leasing.Stats, given map[float64]string) {
	t.Helper()
	f := filler{given: make(map[float64]string)}
	f.fill(t, "", reflect.ValueOf(&s).Elem())
	return s, f.given
}

// always returns a collector of s.
func always(s leasing.Stats, opts ...Option) *collector {
	return newCollector(func() leasing.Stats { return s }, opts...)
}

// scrape returns what c emits, once a pedantic registry has found nothing wrong with it.
func scrape(t *testing.T, c prometheus.Collector) []*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	got, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// value is what tells a metric from the others of filled: of a histogram its sum.
func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	default:
		return m.Histogram.GetSampleSum()
	}
}

func TestEveryFieldOfStatsIsEmittedOnce(t *testing.T) {
	s, missing := filled(t)
	for _, mf := range scrape(t, always(s)) {
		for _, m := range mf.Metric {
			if _, ok := missing[value(m)]; !ok {
				t.Errorf("%s %v is in no field of Stats, or was emitted before", mf.GetName(), m)
			}
			delete(missing, value(m))
		}
	}
	for _, field := range missing {
		t.Errorf("Stats.%s is not emitted", field)
	}
}

// Durations above the last bound are in the bucket +Inf alone.
func TestHistogramBucketsAreCumulative(t *testing.T) {
	s, _ := filled(t)
	histograms := 0
	for _, mf := range scrape(t, always(s)) {
		if mf.GetType() != dto.MetricType_HISTOGRAM {
			continue
		}
		histograms++
		h := mf.Metric[0].Histogram
		got := make(map[float64]uint64)
		for _, b := range h.Bucket {
			got[b.GetUpperBound()] = b.GetCumulativeCount()
		}
		if want := (map[float64]uint64{0.001: 2, 1: 5}); !reflect.DeepEqual(got, want) || h.GetSampleCount() != 9 {
			t.Errorf("%s has the buckets %v and %d in all, want %v and 9", mf.GetName(), got, h.GetSampleCount(), want)
		}
	}
	if histograms != 2 {
		t.Errorf("%d histograms, want 2", histograms)
	}
}

func TestPromlint(t *testing.T) {
	s, _ := filled(t)
	problems, err := testutil.CollectAndLint(always(s))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Whoever renames a metric breaks dashboards and alerts: go test -update.
func TestGolden(t *testing.T) {
	s, _ := filled(t)
	var got bytes.Buffer
	for _, mf := range scrape(t, always(s)) {
		if _, err := expfmt.MetricFamilyToText(&got, mf); err != nil {
			t.Fatal(err)
		}
	}
	const file = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the scrape is not %s but\n%s", file, &got)
	}
}

func TestZeroStatsEmitAsManyMetrics(t *testing.T) {
	s, given := filled(t)
	for name, c := range map[string]*collector{"filled": always(s), "zero": always(leasing.Stats{})} {
		if n := testutil.CollectAndCount(c); n != len(given) {
			t.Errorf("%s Stats: %d metrics, want %d", name, n, len(given))
		}
	}
}

func TestConstLabelsTellCollectorsApart(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	register := func(opts ...Option) error { return registry.Register(always(leasing.Stats{}, opts...)) }
	users, orders := prometheus.Labels{"kv": "users"}, prometheus.Labels{"kv": "orders"}
	if err := register(ConstLabels(users)); err != nil {
		t.Error(err)
	}
	if err := register(ConstLabels(orders)); err != nil {
		t.Error(err)
	}
	if err := register(ConstLabels(users)); err == nil {
		t.Error("two collectors with the same labels are not refused")
	}
	orders["kv"] = "changed"
	got, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if text := got[0].String(); !strings.Contains(text, `"users"`) || !strings.Contains(text, `"orders"`) {
		t.Errorf("the first metrics are %s", text)
	}
}

func TestBadLabelsAreRefusedByTheRegistry(t *testing.T) {
	for _, label := range []string{"reason", "outcome", "__kv"} {
		c := always(leasing.Stats{}, ConstLabels(prometheus.Labels{label: "x"}))
		if err := prometheus.NewRegistry().Register(c); err == nil {
			t.Errorf("label %q is not refused", label)
		}
	}
}

// Each scrape asks once. Scrapes share nothing, which the race detector sees to.
func TestScrapesSideBySide(t *testing.T) {
	s, given := filled(t)
	asked := make(chan struct{}, 16)
	c := newCollector(func() leasing.Stats { asked <- struct{}{}; return s })
	var wg sync.WaitGroup
	for range cap(asked) {
		wg.Go(func() {
			if n := testutil.CollectAndCount(c); n != len(given) {
				t.Errorf("%d metrics, want %d", n, len(given))
			}
		})
	}
	wg.Wait()
	if len(asked) != cap(asked) {
		t.Errorf("Stats were taken %d times in %d scrapes", len(asked), cap(asked))
	}
}
