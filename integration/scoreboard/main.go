// Command scoreboard runs one suite of black-box checks on three contenders:
// etcd's plain client, etcd's own leasing package and this library, each on a
// real etcd of the same configuration. It prints a line for each check and
// writes the board as Markdown.
//
// It fails if this library fails a check that is not known to fail, or passes
// one that is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

func main() {
	var (
		out      = flag.String("o", "", "write the board as Markdown to this `file`")
		run      = flag.String("run", "", "run only the rows whose name matches this `regexp`")
		parallel = flag.Int("p", min(2, runtime.GOMAXPROCS(0)), "how many cells run at the same time")
		cell     = flag.String("cell", "", "run one `contender/row` in this process, as the board does for each cell")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *cell != "" {
		err = playCell(*cell, allRows())
	} else {
		err = playBoard(ctx, *out, *run, *parallel)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scoreboard:", err)
		os.Exit(1)
	}
}

// playBoard runs all rows and writes the document.
func playBoard(ctx context.Context, out, run string, parallel int) error {
	match, err := regexp.Compile(run)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b := board{parallel: parallel, grace: 5 * time.Second, command: self, out: os.Stdout}
	for _, r := range allRows() {
		if match.MatchString(r.name) {
			b.rows = append(b.rows, r)
		}
	}
	if len(b.rows) == 0 {
		return fmt.Errorf("no row matches %q", run)
	}
	began := time.Now()
	if err := b.play(ctx); err != nil {
		return err
	}
	fmt.Printf("\n%d rows in %v\n", len(b.rows), time.Since(began).Round(time.Second))
	for _, r := range b.rows {
		if r.results[contender.Plain].Outcome == failed {
			fmt.Println("NOTE: the plain client says what is right, so this check is wrong:", r.name)
		}
	}
	if out != "" {
		if err := writeDocument(out, b.rows); err != nil {
			return err
		}
	}
	return judge(b.rows)
}

// writeDocument writes the board to a file.
func writeDocument(path string, rows []*row) error {
	var doc strings.Builder
	document{rows: rows, date: time.Now().Format(time.DateOnly), versions: contender.Versions("embedded, one for each cell")}.render(&doc)
	return os.WriteFile(path, []byte(doc.String()), 0o644)
}

// judge returns an error unless this library has done as it is known to do.
func judge(rows []*row) error {
	var errs []error
	for _, r := range rows {
		switch res := r.results[contender.Ours]; {
		case res.Outcome == failed && r.known == "":
			errs = append(errs, fmt.Errorf("fails: %s: %s", r.name, res.Error))
		case res.Outcome == passed && r.known != "":
			errs = append(errs, fmt.Errorf("passes, but is known to fail: %s", r.name))
		}
	}
	return errors.Join(errs...)
}
