// Command mutants breaks the library on purpose, one small wrong change at a
// time, and fails if the tests that need no server do not notice.
//
//	go run ./internal/mutants [-run regexp] [-list] [flags of the tests]
//
// To see what the simulation alone notices:
//
//	go run ./internal/mutants -- -test.run Simulation -sim.seeds 100
//
// Each mutant is made in a copy of the module in a temporary folder. A mutant
// that no longer applies fails too: it has to follow the code.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// mutant is a wrong change to one file.
type mutant struct {
	what      string // the mistake, in words
	invariant string // that it breaks; see DESIGN.md
	file      string
	old, new  string // old must be there exactly once
}

// deadline is how long the tests of one mutant may take. A mutant that makes
// them hang is noticed, too.
const deadline = 2 * time.Minute

var (
	run  = flag.String("run", "", "try only the mutants whose description matches this regular expression")
	list = flag.Bool("list", false, "list the mutants, and check that they apply")
	jobs = flag.Int("jobs", runtime.NumCPU(), "how many to try at once")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := gate(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func gate(ctx context.Context) error {
	wanted, err := regexp.Compile(*run)
	if err != nil {
		return err
	}
	todo := slices.DeleteFunc(mutants(), func(m mutant) bool { return !wanted.MatchString(m.what) })
	for _, m := range todo {
		if _, err := m.source(); err != nil {
			return err
		}
		if *list {
			fmt.Printf("%-4s %s\n", m.invariant, m.what)
		}
	}
	if *list {
		return nil
	}
	began := time.Now()
	survivors := tryAll(ctx, todo)
	fmt.Printf("%d mutants, %d killed, %d survived, in %v\n", len(todo), len(todo)-survivors, survivors, time.Since(began).Round(time.Second))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case survivors > 0:
		return errors.New("there are survivors: a test is missing")
	case len(todo) == 0:
		return errors.New("no mutant was tried")
	}
	return nil
}

// tryAll tries mutants side by side, prints what kills each, and returns how
// many survive.
func tryAll(ctx context.Context, todo []mutant) (survivors int) {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards survivors and the output
	slots := make(chan struct{}, *jobs)
	for _, m := range todo {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			began := time.Now()
			killer, err := m.try(ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				killer = "ERROR: " + err.Error()
				survivors++
			case killer == "":
				killer = "SURVIVES"
				survivors++
			}
			fmt.Printf("%-4s %-66s %s (%.0f s)\n", m.invariant, m.what, killer, time.Since(began).Seconds())
		})
	}
	wg.Wait()
	return survivors
}

// source returns the file with the mistake in it.
func (m mutant) source() ([]byte, error) {
	text, err := os.ReadFile(m.file)
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(text, []byte(m.old)); n != 1 {
		return nil, fmt.Errorf("%q: %s has its text %d times, not once:\n%s", m.what, m.file, n, m.old)
	}
	return bytes.Replace(text, []byte(m.old), []byte(m.new), 1), nil
}

// try runs the tests on a copy with the mistake, and returns what notices it:
// the first test that fails.
func (m mutant) try(ctx context.Context) (killer string, err error) {
	temp, err := os.MkdirTemp("", "leasing-mutant-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	dir := filepath.Join(temp, "leasing")
	if err := m.copyTo(dir); err != nil {
		return "", err
	}
	binary := filepath.Join(temp, "test")
	if err := m.build(ctx, dir, binary); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	// The tests that bear the number of an invariant notice most of them, and soon.
	const numbered = "^TestI[0-9]"
	for _, tests := range [][]string{{"-test.run=" + numbered}, {"-test.skip=" + numbered}} {
		args := append([]string{"-test.v", "-test.failfast"}, tests...)
		cmd := exec.CommandContext(ctx, binary, append(args, flag.Args()...)...)
		cmd.Dir = dir // some tests read the source
		cmd.WaitDelay = time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			return killerOf(string(out), ctx.Err() != nil), nil
		}
	}
	return "", nil
}

// copyTo copies the package root, with the mistake in it.
func (m mutant) copyTo(dir string) error {
	root, err := os.ReadDir(".")
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, f := range root {
		if !f.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(f.Name())
		if f.Name() == m.file {
			text, err = m.source()
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name()), text, 0o600); err != nil {
			return err
		}
	}
	for _, read := range []string{"testdata", "docs"} { // by tests
		if _, err := os.Stat(read); err != nil {
			continue // there is none
		}
		if err := os.CopyFS(filepath.Join(dir, read), os.DirFS(read)); err != nil {
			return err
		}
	}
	return nil
}

// build compiles the tests. It lays the file in the copy over the one that is
// here, so that all else comes from the build cache.
func (m mutant) build(ctx context.Context, dir, binary string) error {
	here, err := filepath.Abs(m.file)
	if err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {here: filepath.Join(dir, m.file)}})
	if err != nil {
		return err
	}
	file := binary + ".overlay"
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", file, "-o", binary, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("it does not compile: %s", bytes.TrimSpace(out))
	}
	return nil
}

// killerOf returns the test that failed first or, if the tests crashed or hung,
// the one that was under way.
func killerOf(out string, hung bool) string {
	var last string
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "--- FAIL: "); ok {
			name, _, _ = strings.Cut(name, " ")
			return name
		}
		if name, ok := strings.CutPrefix(line, "=== RUN   "); ok {
			last = strings.TrimSpace(name)
		}
	}
	if hung {
		return last + " (hangs)"
	}
	return last + " (crashes)"
}
