package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// cellLimit is how long a cell may take, unless its row says otherwise.
const cellLimit = 30 * time.Second

// playCell runs one cell in this process and prints its result. name is
// "contender/row". An error means that the cell could not be run at all.
func playCell(name string, rows []*row) error {
	who, what, _ := strings.Cut(name, "/")
	c := slices.IndexFunc(contender.All[:], func(c contender.Contender) bool { return c.Name == who })
	r := slices.IndexFunc(rows, func(r *row) bool { return r.name == what })
	if c < 0 || r < 0 {
		return fmt.Errorf("there is no cell %q", name)
	}
	res, err := runCell(rows[r], contender.All[c])
	if err != nil {
		return err
	}
	// The process ends here, and with it what the contender has left behind.
	return json.NewEncoder(os.Stdout).Encode(res)
}

// runCell runs a check on a new etcd, with its data in the working directory.
func runCell(r *row, c contender.Contender) (result, error) {
	etcd, err := etcdtest.Launch("etcd", append([]etcdtest.Option{etcdtest.QuickTicks()}, r.etcd...)...)
	if err != nil {
		return result{}, err
	}
	observer, err := etcd.NewClient(etcd.Endpoints())
	if err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout())
	defer cancel()
	return attempt(r.check, &env{ctx: ctx, Contender: c, etcd: etcd, plain: observer}), nil
}

func (r *row) timeout() time.Duration {
	if r.limit > 0 {
		return r.limit
	}
	return cellLimit
}

// attempt runs a check. A panic is a failure like any other.
func attempt(check func(*env), e *env) (res result) {
	defer func() {
		res.Figure = e.figure
		switch p := recover().(type) {
		case nil:
			res.Outcome = passed
		case failure:
			res.Outcome, res.Error = failed, oneLine(p.text)
		default:
			res.Outcome, res.Error = failed, oneLine(fmt.Sprint("panic: ", p))
		}
	}()
	check(e)
	return res
}

// failure is what a check panics with to end.
type failure struct{ text string }

var (
	blanks  = regexp.MustCompile(`\s+`)
	address = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	pointer = regexp.MustCompile(`0x[0-9a-f]+`)
)

// longest is how much of an error is shown, in runes.
const longest = 220

// oneLine shortens an error, and takes out what is different each time.
func oneLine(s string) string {
	s = strings.TrimSpace(blanks.ReplaceAllString(s, " "))
	s = address.ReplaceAllString(s, "127.0.0.1")
	s = pointer.ReplaceAllString(s, "0x…")
	if r := []rune(s); len(r) > longest {
		s = strings.TrimSpace(string(r[:longest])) + "…"
	}
	return s
}
