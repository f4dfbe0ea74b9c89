// Command upstream runs etcd's own tests of its leasing package, as they are,
// against this library.
//
// The tests come out of the module go.etcd.io/etcd/tests/v3, in the version
// that go.mod names. Only the path that they import the package under test
// from is replaced. Nothing of them is written into this repository: the go
// command is told with -overlay that they are in package lease.
//
// A test that is skipped counts as a failure, as etcd's leak detection skips
// tests that begin while goroutines of an earlier one still run.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
)

const (
	testsModule = "go.etcd.io/etcd/tests/v3"
	testsDir    = "integration/clientv3/lease"
	original    = "go.etcd.io/etcd/client/v3/leasing"
	ours        = "github.com/etcd-leasing/leasing"
)

var (
	count   = flag.Int("count", 5, "how often each test runs")
	run     = flag.String("run", "", "run only the tests that match this regular expression")
	race    = flag.Bool("race", false, "run with the race detector")
	verbose = flag.Bool("v", false, "print the output of tests that pass, too")
	serial  = flag.Bool("serial", false, "run one test after the other")
	timeout = flag.Duration("timeout", 0, "limit for a run of all tests; 0 leaves it to the go command")
	against = flag.String("against", ours, "import path of the package under test; "+original+" is etcd's own")
)

func main() {
	flag.Parse()
	if err := upstream(); err != nil {
		fmt.Fprintln(os.Stderr, "upstream:", err)
		os.Exit(1)
	}
}

func upstream() error {
	here, err := goCommand("list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	// With a module's go.sum in place, the go command checks what it downloads.
	if _, err = goCommand("mod", "download", testsModule); err != nil {
		return err
	}
	tests, err := goCommand("list", "-m", "-f", "{{.Dir}}", testsModule)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "leasing-upstream-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)

	overlay, err := writeOverlay(temp, filepath.Join(tests, filepath.FromSlash(testsDir)), filepath.Join(here, "lease"))
	if err != nil {
		return err
	}
	return goTest(here, overlay)
}

// writeOverlay copies the tests from folder tests to temp, makes them import
// the package under test, and returns the path of a file for -overlay that
// has them in folder at.
func writeOverlay(temp, tests, at string) (string, error) {
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for _, name := range []string{"main_test.go", "leasing_test.go"} {
		text, err := os.ReadFile(filepath.Join(tests, name))
		if err != nil {
			return "", err
		}
		if name == "leasing_test.go" {
			from, to := []byte(`"`+original+`"`), []byte(`"`+*against+`"`)
			if n := bytes.Count(text, from); n != 1 {
				return "", fmt.Errorf("%s names %s %d times, not once", name, from, n)
			}
			text = bytes.Replace(text, from, to, 1)
		}
		copied := filepath.Join(temp, name)
		if err := os.WriteFile(copied, text, 0o600); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(at, name)] = copied
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	path := filepath.Join(temp, "overlay.json")
	return path, os.WriteFile(path, text, 0o600)
}

// parts are arguments of go test that divide the tests into parts, each of
// them in one part. The tests wait for leases to expire nearly all of the time,
// and one waits as long as all others together, so parts run side by side.
func parts() [][]string {
	if *run != "" {
		return [][]string{{"-run", *run}}
	}
	if *serial {
		return [][]string{nil}
	}
	const (
		long  = `^TestLeasingSessionExpireCancel$`
		half  = long + `/^test_[0-3]$`
		early = `^TestLeasing[A-O]`
	)
	return [][]string{
		{"-run", half},
		{"-run", long, "-skip", half},
		{"-run", early, "-skip", long},
		{"-skip", early + "|" + long},
	}
}

// goTest runs the tests and prints what they say.
func goTest(dir, overlay string) error {
	// Ctrl-C reaches go test as well; stay until it has ended, to clean up.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	var (
		r    report
		errs []error
		wg   sync.WaitGroup
		mu   sync.Mutex // guards r and errs
	)
	for _, part := range parts() {
		args := []string{"test", "-json", "-overlay", overlay, fmt.Sprint("-count=", *count)}
		if *race {
			args = append(args, "-race")
		}
		if *timeout > 0 {
			args = append(args, "-timeout", timeout.String())
		}
		cmd := exec.Command("go", append(append(args, part...), "./lease")...)
		cmd.Dir = dir
		wg.Go(func() {
			out, err := cmd.Output()
			mu.Lock()
			defer mu.Unlock()
			r.read(out)
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				fmt.Fprintf(os.Stderr, "%s", exit.Stderr)
			}
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(append(errs, r.conclude())...)
}

// report prints the events of go test -json as go test would without it, and
// counts the tests.
type report struct {
	results                 []string // the last line of each go test
	passed, failed, skipped int
}

// event is what go test -json prints; see go doc test2json.
type event struct {
	Action, Test, Output string
}

// read reads what one go test has printed.
func (r *report) read(out []byte) {
	held := make(map[string]string) // output of tests under way
	parents := make(map[string]bool)
	for line := range bytes.Lines(out) {
		var e event
		if json.Unmarshal(line, &e) != nil {
			fmt.Printf("%s", line)
			continue
		}
		switch {
		case e.Test == "":
			r.ofPackage(e)
			continue
		case e.Action == "run":
			if i := strings.LastIndex(e.Test, "/"); i > 0 {
				parents[e.Test[:i]] = true
			}
			continue
		case e.Action == "output":
			held[e.Test] += e.Output
			continue
		case e.Action != "pass" && e.Action != "fail" && e.Action != "skip":
			continue
		}
		if *verbose || e.Action != "pass" {
			fmt.Print(held[e.Test])
		}
		delete(held, e.Test)
		if parents[e.Test] {
			continue // its subtests are counted
		}
		switch e.Action {
		case "pass":
			r.passed++
		case "fail":
			r.failed++
		case "skip":
			r.skipped++
		}
	}
	for _, lines := range held { // of tests that were cut short
		fmt.Print(lines)
	}
}

func (r *report) ofPackage(e event) {
	switch {
	case e.Output == "PASS\n":
	case strings.HasPrefix(e.Output, "ok ") || strings.HasPrefix(e.Output, "FAIL\t"):
		r.results = append(r.results, e.Output)
	default:
		fmt.Print(e.Output)
	}
}

// conclude ends with the last lines of the go tests.
func (r *report) conclude() error {
	fmt.Printf("etcd's own tests against %s: %d passed, %d failed, %d skipped\n%s",
		*against, r.passed, r.failed, r.skipped, strings.Join(r.results, ""))
	switch {
	case r.skipped > 0:
		return fmt.Errorf("%d tests were skipped", r.skipped)
	case r.passed == 0:
		return errors.New("no test passed")
	}
	return nil
}

// goCommand returns what the go command prints.
func goCommand(args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
