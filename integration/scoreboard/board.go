package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// board runs rows. Each cell has a process of its own, so that one that
// panics, hangs or spins is a failure, and harms no other.
type board struct {
	rows     []*row
	parallel int           // cells at the same time
	grace    time.Duration // after which a cell is ended that should have ended by itself
	command  string        // what runs a cell
	out      io.Writer
}

// play fills in the results of all rows and prints each row when it and all
// before it are complete. An error means that a cell could not be run.
func (b *board) play(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, max(b.parallel, 1))
	complete := make([]sync.WaitGroup, len(b.rows))
	for i := range complete {
		complete[i].Add(len(contender.All))
	}
	go func() {
		for i, r := range b.rows {
			for c := range contender.All {
				slots <- struct{}{}
				go func() {
					defer func() { <-slots; complete[i].Done() }()
					res, err := b.cell(ctx, r, c)
					if err != nil {
						cancel(fmt.Errorf("%s, %s: %w", contender.All[c].Title, r.name, err))
					}
					r.results[c] = res
				}()
			}
		}
	}()
	group := ""
	for i, r := range b.rows {
		complete[i].Wait()
		if ctx.Err() != nil {
			continue // every cell ends at once, and is waited for
		}
		if r.group != group {
			group = r.group
			fmt.Fprintf(b.out, "\n%s (%s, %s, %s)\n", group, contender.All[0].Title, contender.All[1].Title, contender.All[2].Title)
		}
		printRow(b.out, r)
	}
	return context.Cause(ctx)
}

// printRow prints what is in a row, in one line and one more for each failure.
func printRow(w io.Writer, r *row) {
	var marks, more strings.Builder
	for c, res := range r.results {
		fmt.Fprintf(&marks, "%s ", mark(res))
		if res.Figure != "" || res.Error != "" {
			fmt.Fprintf(&more, "          %-15s%s\n", contender.All[c].Title, strings.Join(nonEmpty(res.Figure, res.Error), ": "))
		}
	}
	fmt.Fprintf(w, "  %s %s\n%s", &marks, r.name, &more)
}

func nonEmpty(all ...string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

func mark(r result) string {
	switch r.Outcome {
	case passed:
		return "✓"
	case failed:
		return "✗"
	}
	return "–"
}

// cell runs one cell in a process of its own.
func (b *board) cell(ctx context.Context, r *row, c int) (result, error) {
	if !r.applies(c) {
		return result{Outcome: skipped}, nil
	}
	dir, err := os.MkdirTemp("", "scoreboard-")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	limited, cancel := context.WithTimeout(ctx, r.timeout()+b.grace)
	defer cancel()
	cmd := exec.CommandContext(limited, b.command, "-cell", contender.All[c].Name+"/"+r.name)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return result{}, ctx.Err()
	case limited.Err() != nil:
		return result{Outcome: failed, Figure: "hangs", Error: "it does not end"}, nil
	}
	return readResult(err, stdout.Bytes(), stderr.String())
}

// readResult makes a result of what a process has left: its own, or the panic
// of a goroutine that could not be caught.
func readResult(err error, stdout []byte, stderr string) (result, error) {
	if err == nil {
		var res result
		err = json.Unmarshal(stdout, &res)
		return res, err
	}
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			return result{Outcome: failed, Figure: "panics", Error: oneLine(line)}, nil
		}
	}
	return result{}, errors.Join(err, errors.New(oneLine(stderr)))
}
