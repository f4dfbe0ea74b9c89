package metrics

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/etcd-leasing/leasing"
)

// The tables in the package documentation have every metric, with each value of its
// label, and no other.
func TestDocTables(t *testing.T) {
	src, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, row := range regexp.MustCompile(`(?m)^//\t([a-z_]+) {2,}\S`).FindAllStringSubmatch(string(src), -1) {
		got = append(got, row[1])
	}
	for _, mf := range scrape(t, always(leasing.Stats{})) {
		want = append(want, mf.GetName())
		for _, m := range mf.Metric {
			for _, l := range m.Label {
				want = append(want, l.GetValue())
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("doc.go has\n%s\nbut what is emitted is\n%s", strings.Join(got, " "), strings.Join(want, " "))
	}
}
