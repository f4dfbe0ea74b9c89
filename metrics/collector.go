package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-leasing/leasing"
)

// NewCollector returns a collector of what kv.Stats tells, which is asked once for
// each scrape. The collector keeps nothing and starts nothing, and any number of
// scrapes may use it at once. A registry takes one collector for each set of
// [ConstLabels] and refuses the next with an error; so it does if a label has no valid
// name. Of a KV that is closed, the collector goes on telling the last counts:
// unregister it.
func NewCollector(kv *leasing.KV, opts ...Option) prometheus.Collector {
	return newCollector(kv.Stats, opts...)
}

// Option changes what NewCollector returns.
type Option func(*options)

type options struct{ labels prometheus.Labels }

// ConstLabels are labels that every metric carries, to tell apart the KVs of one
// process. They must be none of "reason", "outcome" and "le". Of several, the last
// holds. The labels are copied.
func ConstLabels(labels prometheus.Labels) Option {
	return func(o *options) { o.labels = labels }
}

// collector emits metrics of the Stats that it is given.
type collector struct {
	stats    func() leasing.Stats
	families []family
	descs    []*prometheus.Desc // of families, in the same order
}

var _ prometheus.Collector = (*collector)(nil)

func newCollector(stats func() leasing.Stats, opts ...Option) *collector {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	c := &collector{stats: stats, families: families()}
	for _, f := range c.families {
		c.descs = append(c.descs, f.desc(o.labels))
	}
	return c
}

// Describe sends what there is to be collected, which is always the same.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect sends one reading of the Stats.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	for i, f := range c.families {
		f.emit(c.descs[i], &s, ch)
	}
}
