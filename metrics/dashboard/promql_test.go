package dashboard

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/memetcd"
	"github.com/etcd-leasing/leasing/metrics"
)

// series is what the name in a query stands for.
type series struct {
	family string // the metric it belongs to: the same name, but for histograms
	grows  bool   // it is a counter, or as good as one
	labels []string
}

// emitted returns the series that the collector of a KV emits, by name.
func emitted(t *testing.T) map[string]series {
	t.Helper()
	srv := memetcd.New(memetcd.Options{})
	t.Cleanup(srv.Close)
	cl := srv.NewClient("kv")
	t.Cleanup(func() { cl.Close() })
	kv, err := leasing.New(t.Context(), cl, leasing.Config{Prefix: "claims/"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kv.Close() })
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.NewCollector(kv))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]series)
	for _, mf := range families {
		maps.Copy(all, seriesOf(mf))
	}
	return all
}

func seriesOf(mf *dto.MetricFamily) map[string]series {
	name := mf.GetName()
	s := series{family: name, grows: mf.GetType() != dto.MetricType_GAUGE, labels: []string{"instance"}}
	for _, l := range mf.Metric[0].Label {
		s.labels = append(s.labels, l.GetName())
	}
	if mf.GetType() != dto.MetricType_HISTOGRAM {
		return map[string]series{name: s}
	}
	bucket := s
	bucket.labels = append(slices.Clone(s.labels), "le")
	return map[string]series{name + "_bucket": bucket, name + "_sum": s, name + "_count": s}
}

// query is a PromQL expression, taken apart.
type query struct {
	text      string
	selectors []selector
	grouping  []string // labels by which something is grouped or matched
}

// selector is a metric in a query.
type selector struct {
	name     string
	matchers []*labels.Matcher // but for that of the name
	rate     bool              // it is in a rate or an increase
}

// parse takes an expression apart. Grafana's variables get values.
func parse(t *testing.T, text string) (q query) {
	t.Helper()
	q.text = text
	text = strings.ReplaceAll(text, "$__rate_interval", "1m")
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			q.selectors = append(q.selectors, newSelector(n, path))
		case *parser.AggregateExpr:
			q.grouping = append(q.grouping, n.Grouping...)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				q.grouping = append(q.grouping, n.VectorMatching.MatchingLabels...)
			}
		}
		return nil
	})
	return q
}

func newSelector(v *parser.VectorSelector, path []parser.Node) selector {
	s := selector{name: v.Name}
	for _, m := range v.LabelMatchers {
		if m.Name != model.MetricNameLabel {
			s.matchers = append(s.matchers, m)
		}
	}
	for _, n := range path {
		if call, ok := n.(*parser.Call); ok && slices.Contains([]string{"rate", "increase"}, call.Func.Name) {
			s.rate = true
		}
	}
	return s
}

// check fails if the query asks for what is not emitted, or takes a counter for a gauge
// or the other way round. It returns the metrics that the query uses.
func (q query) check(t *testing.T, all map[string]series) (used []string) {
	t.Helper()
	var known []string
	for _, sel := range q.selectors {
		s, ok := all[sel.name]
		if !ok {
			t.Errorf("%s: %s is not emitted", q.text, sel.name)
			continue
		}
		if s.grows != sel.rate {
			t.Errorf("%s: %s grows: %v, but is in a rate: %v", q.text, sel.name, s.grows, sel.rate)
		}
		for _, m := range sel.matchers {
			if !slices.Contains(s.labels, m.Name) {
				t.Errorf("%s: %s has no label %s", q.text, sel.name, m.Name)
			}
		}
		used, known = append(used, s.family), append(known, s.labels...)
	}
	for _, label := range q.grouping {
		if !slices.Contains(known, label) {
			t.Errorf("%s: nothing has a label %s", q.text, label)
		}
	}
	return used
}

// Every query of a panel asks for what is emitted, of the chosen instances, and every
// metric is in some panel.
func TestPanelsShowWhatIsEmitted(t *testing.T) {
	all, shown := emitted(t), make(map[string]bool)
	for _, p := range grafana(t).graphs() {
		for _, target := range p.Targets {
			q := parse(t, target.Expr)
			for _, family := range q.check(t, all) {
				shown[family] = true
			}
			for _, sel := range q.selectors {
				if !strings.Contains(fmt.Sprint(sel.matchers), `instance=~"$instance"`) {
					t.Errorf("%s: %s is asked of all instances", p.Title, sel.name)
				}
			}
		}
	}
	for _, s := range all {
		if !shown[s.family] {
			t.Errorf("%s is in no panel", s.family)
		}
	}
}

// The legend of a query says which of its lines is which.
func TestLegendsNameTheLabels(t *testing.T) {
	for _, p := range grafana(t).graphs() {
		for _, target := range p.Targets {
			want := slices.DeleteFunc(parse(t, target.Expr).grouping, func(l string) bool { return l == "le" })
			for _, label := range want {
				if !strings.Contains(target.LegendFormat, "{{"+label+"}}") {
					t.Errorf("%s: the legend %q does not tell the %s", p.Title, target.LegendFormat, label)
				}
			}
		}
	}
}

func TestInstancesAreThoseOfAnEmittedMetric(t *testing.T) {
	all := emitted(t)
	object, _ := grafana(t).Templating.List[1].Query.(map[string]any)
	text, _ := object["query"].(string)
	m := regexp.MustCompile(`^label_values\((\w+), instance\)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("the query of the variable is %q", text)
	}
	if _, ok := all[m[1]]; !ok {
		t.Errorf("%s is not emitted", m[1])
	}
}

// The hit ratio in the documentation of package metrics parses, and asks for what is
// emitted.
func TestDocumentedHitRatio(t *testing.T) {
	src, err := os.ReadFile("../doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(src), "// # Hit ratio\n")
	if !ok {
		t.Fatal("the documentation has no section on the hit ratio")
	}
	all, queries := emitted(t), 0
	for _, lines := range regexp.MustCompile(`(?m)^//\t\S.*\n(?://\t .*\n)*`).FindAllString(text, -1) {
		parse(t, strings.ReplaceAll(lines, "//\t", "")).check(t, all)
		queries++
	}
	if queries != 1 {
		t.Errorf("%d queries found, want 1", queries)
	}
}
