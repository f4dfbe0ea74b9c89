package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// TestMain runs an etcd if it is asked to, as main does.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "-serve" {
		if err := serve(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// Every measurement runs, and has a figure for every row and subject. What the
// figures are is of no concern here, so they need not wait for each other.
func TestEveryMeasurement(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts many etcd processes")
	}
	// Workloads differ in their figures only; two of them will do.
	few := regexp.MustCompile(`^(cached|put|get|first|64|delete|one hot|memory|closing|.* owned keys|4 clients, all|1 % )`)
	all := suite{experiments: matching(allExperiments(shortSizes()), few)}
	var drawn atomic.Int32
	t.Run("rows", func(t *testing.T) {
		for _, x := range all.experiments {
			t.Run(x.rows[0].name, func(t *testing.T) {
				t.Parallel()
				drawn.Add(int32(smoke(t, x)))
			})
		}
	})
	for _, r := range allRows(all.experiments) {
		if r.want != nil && !r.judge(all.find).known {
			t.Errorf("%s: the target is not judged", r.name)
		}
	}
	if int(drawn.Load()) != len(kinds) {
		t.Errorf("%d kinds of latencies are kept, of %d to be drawn", drawn.Load(), len(kinds))
	}
}

// smoke runs one experiment and returns how many kinds of latencies it keeps.
func smoke(t *testing.T, x *experiment) int {
	var out strings.Builder
	s := suite{experiments: []*experiment{x}, sizes: shortSizes(), rounds: 1, dir: t.TempDir(), out: &out, progress: &out}
	if err := s.play(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	for i, r := range x.rows {
		for _, subject := range x.subjects() {
			// Only the first figure is everybody's.
			if n := len(r.figures[subject]); n != max(x.repeats, 1) && !(n == 0 && i > 0 && subject == contender.Plain) {
				t.Errorf("%s: %d figures of %s", r.name, n, subjectName(subject))
			}
		}
	}
	return len(s.samples)
}

// Targets name rows that there are, and no two rows have the same name.
func TestTargetsAreRows(t *testing.T) {
	s := suite{experiments: allExperiments(fullSizes())}
	seen := make(map[string]bool)
	for _, r := range allRows(s.experiments) {
		if seen[r.name] {
			t.Errorf("two rows: %s", r.name)
		}
		seen[r.name] = true
		if r.want != nil && r.want.of != "" && r.want.of != sameRow && s.find(r.want.of) == nil {
			t.Errorf("%s: no row %s", r.name, r.want.of)
		}
	}
}
