package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// TestMain runs a cell if it is asked to, as main does.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "-cell" {
		if err := playCell(os.Args[2], badRows()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// badRows are checks that go wrong in all ways, and some that do not.
func badRows() []*row {
	return []*row{
		{name: "passes", check: func(e *env) { e.show("%s", e.Name) }},
		{name: "fails", check: func(e *env) { e.show("almost"); e.fail("it is\nnot so") }},
		{name: "panics", leased: true, check: func(*env) { panic("oh no") }},
		{name: "panics in a goroutine", leased: true, check: func(*env) { go panic("oh no"); select {} }},
		{name: "hangs", leased: true, limit: time.Second, check: func(*env) { select {} }},
		{name: "passes again", check: func(e *env) { e.put(e.party(), "k", "1") }},
	}
}

// Whatever a check does, the board goes on.
func TestBoardGoesOn(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	b := board{rows: badRows(), parallel: 3, command: self, grace: 100 * time.Millisecond, out: &out}
	if err := b.play(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []result{
		{passed, "ours", ""},
		{failed, "almost", "it is not so"},
		{failed, "", "panic: oh no"},
		{failed, "panics", "panic: oh no"},
		{failed, "hangs", "it does not end"},
		{passed, "", ""},
	} {
		r := b.rows[i]
		if got := r.results[contender.Ours]; got != want {
			t.Errorf("%s: got %+v, want %+v", r.name, got, want)
		}
		if got := r.results[contender.Plain].Outcome; (got == skipped) != r.leased {
			t.Errorf("%s: the plain client's is %q", r.name, got)
		}
		if !strings.Contains(out.String(), r.name) {
			t.Errorf("%s was not printed", r.name)
		}
	}
}

// A cell that cannot be run is no failure of a contender, but ends the board.
func TestBoardCannotRun(t *testing.T) {
	b := board{rows: []*row{{name: "x"}}, command: "/none", out: new(bytes.Buffer)}
	if err := b.play(t.Context()); err == nil {
		t.Error("nothing runs, and nothing is wrong")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.play(ctx); err == nil {
		t.Error("a board that was interrupted is complete")
	}
}

// Names tell rows from each other, on the command line too.
func TestRowsHaveNames(t *testing.T) {
	var names []string
	for _, r := range allRows() {
		if slices.Contains(names, r.name) || r.name == "" || r.check == nil || r.group == "" {
			t.Errorf("%q is there twice, or not complete", r.name)
		}
		names = append(names, r.name)
	}
}

func TestJudge(t *testing.T) {
	ok, bad := result{Outcome: passed}, result{Outcome: failed, Error: "why"}
	for _, tt := range []struct {
		known string
		res   result
		want  string
	}{
		{"", ok, ""},
		{"a limit", bad, ""},
		{"", bad, "fails: x: why"},
		{"a limit", ok, "passes, but is known to fail: x"},
	} {
		r := &row{name: "x", known: tt.known}
		r.results[contender.Theirs], r.results[contender.Ours] = bad, tt.res
		if got := fmt.Sprint(judge([]*row{r})); tt.want == "" && got != "<nil>" || !strings.Contains(got, tt.want) {
			t.Errorf("known %q, %v: got %s, want %q", tt.known, tt.res.Outcome, got, tt.want)
		}
	}
}
