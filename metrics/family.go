package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-leasing/leasing"
)

// family is a metric with all of its label values, and how it is made of Stats. It
// says everything about the metric but the constant labels.
type family struct {
	name, help string
	label      string // that tells its metrics apart; "" if it is only one
	emit       func(*prometheus.Desc, *leasing.Stats, chan<- prometheus.Metric)
}

// desc describes the family to a registry.
func (f family) desc(labels prometheus.Labels) *prometheus.Desc {
	var names []string
	if f.label != "" {
		names = []string{f.label}
	}
	return prometheus.NewDesc(f.name, f.help, names, labels)
}

// counter is a family of one number that only grows.
func counter(name, help string, value func(*leasing.Stats) uint64) family {
	emit := func(d *prometheus.Desc, s *leasing.Stats, ch chan<- prometheus.Metric) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value(s)))
	}
	return family{name: name, help: help, emit: emit}
}

// gauge is a family of one number that grows and shrinks.
func gauge(name, help string, value func(*leasing.Stats) float64) family {
	emit := func(d *prometheus.Desc, s *leasing.Stats, ch chan<- prometheus.Metric) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value(s))
	}
	return family{name: name, help: help, emit: emit}
}

// counters is a family of several numbers that only grow, by the value of label.
func counters(name, help, label string, values func(*leasing.Stats) map[string]uint64) family {
	emit := func(d *prometheus.Desc, s *leasing.Stats, ch chan<- prometheus.Metric) {
		for value, n := range values(s) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), value)
		}
	}
	return family{name: name, help: help, label: label, emit: emit}
}

// histogram is a family of durations.
func histogram(name, help string, value func(*leasing.Stats) leasing.Histogram) family {
	emit := func(d *prometheus.Desc, s *leasing.Stats, ch chan<- prometheus.Metric) {
		h := value(s)
		ch <- prometheus.MustNewConstHistogram(d, h.Count(), h.Sum.Seconds(), cumulative(h))
	}
	return family{name: name, help: help, emit: emit}
}

// cumulative returns how many durations were at most as long as each bound, in
// seconds. Those above the last bound are in the count alone, which is Prometheus'
// bucket +Inf.
func cumulative(h leasing.Histogram) map[float64]uint64 {
	buckets, n := make(map[float64]uint64, len(h.Bounds)), uint64(0)
	for i, bound := range h.Bounds {
		n += h.Counts[i]
		buckets[bound.Seconds()] = n
	}
	return buckets
}

// seconds makes a value of a duration.
func seconds(value func(*leasing.Stats) time.Duration) func(*leasing.Stats) float64 {
	return func(s *leasing.Stats) float64 { return value(s).Seconds() }
}
