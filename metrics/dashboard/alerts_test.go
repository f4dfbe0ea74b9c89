package dashboard

import (
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// alerts returns the rules of docs/alerts.yaml, as Prometheus reads them.
func alerts(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile("../../docs/alerts.yaml", false, model.UTF8Validation,
		parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if len(groups.Groups) != 1 || groups.Groups[0].Name != "leasing" {
		t.Fatalf("the groups are %v", groups.Groups)
	}
	return groups.Groups[0].Rules
}

// Every alert asks for what is emitted, and tells of which instance it is.
func TestAlertsAskForWhatIsEmitted(t *testing.T) {
	all := emitted(t)
	for _, rule := range alerts(t) {
		q := parse(t, rule.Expr)
		if q.check(t, all); !slices.Contains(q.grouping, "instance") {
			t.Errorf("%s is not by instance", rule.Alert)
		}
	}
}

func TestAlertsSayWhatTheyMean(t *testing.T) {
	for _, rule := range alerts(t) {
		if !slices.Contains([]string{"critical", "warning"}, rule.Labels["severity"]) {
			t.Errorf("%s: the severity is %q", rule.Alert, rule.Labels["severity"])
		}
		if !strings.Contains(rule.Annotations["summary"], "{{ $labels.instance }}") || rule.Annotations["description"] == "" {
			t.Errorf("%s: the annotations are %q", rule.Alert, rule.Annotations)
		}
	}
}

// The table in docs/operating.md has these alerts, in this order, and no other.
func TestAlertsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(Leasing\\w+)` \\|").FindAllStringSubmatch(string(text), -1) {
		got = append(got, row[1])
	}
	for _, rule := range alerts(t) {
		want = append(want, rule.Alert)
	}
	if !slices.Equal(got, want) {
		t.Errorf("operating.md has %q, the alerts are %q", got, want)
	}
}
