package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"go.etcd.io/etcd/api/v3/version"
)

// row is one line of the table.
type row struct {
	name    string
	rate    bool // in a second, and more is better; else nanoseconds
	figures [waysThereAre][]float64
	factor  float64 // how much better than of this way the proxy is to be
	of      int
}

type table struct{ rows []*row }

// The targets: cached gets twice as good as through etcd's leasing proxy, everything
// else not much worse than without a proxy.
func newTable() *table {
	return &table{[]*row{
		{name: cachedP50, factor: 2, of: theirs},
		{name: cachedP99, factor: 2, of: theirs},
		{name: cachedMany, rate: true, factor: 2, of: theirs},
		{name: cachedCost},
		{name: cachedOwn},
		{name: putP50, factor: 0.8, of: direct},
		{name: putMany, rate: true, factor: 0.8, of: direct},
		{name: rangeP50, factor: 0.8, of: direct},
		{name: rangeMany, rate: true, factor: 0.8, of: direct},
		{name: watchersP50, factor: 0.8, of: direct},
	}}
}

// add takes a figure for a row, unless that has no name.
func (t *table) add(name string, way int, figure float64) {
	if name == "" {
		return
	}
	r := t.row(name)
	r.figures[way] = append(r.figures[way], figure)
}

func (t *table) row(name string) *row {
	for _, r := range t.rows {
		if r.name == name {
			return r
		}
	}
	panic("bench: there is no row " + name)
}

func (r *row) median(way int) float64 { return percentile(r.figures[way], 50) }

// better is how many times better one way is than another.
func (r *row) better(one, other int) float64 {
	if r.rate {
		return r.median(one) / r.median(other)
	}
	return r.median(other) / r.median(one)
}

// down rounds down to what is shown, so that a target that is missed does not look met.
func down(x float64) float64 { return math.Floor(100*x) / 100 }

func (r *row) met() string {
	if r.factor == 0 {
		return ""
	}
	verdict := "**no**"
	if r.better(ours, r.of) >= r.factor {
		verdict = "yes"
	}
	return fmt.Sprintf("≥ %v × %s: %s, %.2f × (*floor* %.2f ×)", r.factor, wayNames[r.of], verdict, down(r.better(ours, r.of)), down(r.better(floor, r.of)))
}

func (r *row) show(way int) string {
	if r.rate {
		return fmt.Sprintf("%.0f/s", r.median(way))
	}
	return time.Duration(r.median(way)).Round(time.Microsecond).String()
}

func (t *table) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer tw.Flush()
	fmt.Fprintf(tw, "\t%s\t%s\t%s\t%s\t\n", wayNames[direct], wayNames[theirs], wayNames[ours], wayNames[floor])
	for _, r := range t.rows {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", r.name, r.show(direct), r.show(theirs), r.show(ours), r.show(floor), r.met())
	}
}

// write writes the table as a document.
func (t *table) write(file string, rounds int) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks of the proxy

etcd's API through leasing-proxy, beside etcd's own `+"`grpc-proxy --experimental-leasing-prefix`"+` and a direct connection.
The clients are etcd's, in one process and the same for all. It holds 64 MB besides, so that collecting its garbage takes little time
from the servers; so do this proxy, as it always does, and the floor, but not etcd and its proxy, which run as they come. All are processes
of their own, on the same cores, over loopback; etcd writes to disk for good before it answers. They take short turns, row by row, each
as often behind each other as any; a figure is the median over the turns. "Better than" compares rates, and times the other way round.

The *floor* is about the least that a leasing proxy can do on gRPC: it answers each get of a single key with the same bytes, turns
each put into the guarded transaction that the format of claims asks for, and passes everything else on without looking at it. It
caches nothing and asks nobody. What it misses by far, a leasing proxy on Go's gRPC does not reach here. Differences of 5 %% are noise.

- made by `+"`make bench-proxy`"+` on %s, %d rounds
- %d cores, %s/%s, %s, etcd %s

| what | %s | %s | %s | *%s* | target |
|---|---|---|---|---|---|
`, time.Now().UTC().Format(time.DateOnly), rounds, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), version.Version,
		wayNames[direct], wayNames[theirs], wayNames[ours], wayNames[floor])
	met, of := 0, 0
	for _, r := range t.rows {
		if r.factor > 0 {
			of++
		}
		if r.factor > 0 && r.better(ours, r.of) >= r.factor {
			met++
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | *%s* | %s |\n", r.name, r.show(direct), r.show(theirs), r.show(ours), r.show(floor), r.met())
	}
	fmt.Fprintf(&b, "\n%d of %d targets are met.\n", met, of)
	server, own := t.row(cachedCost), t.row(cachedOwn)
	idle := 1 + server.median(theirs)/own.median(theirs)
	fmt.Fprintf(&b, `
## What limits it

- Gets of cached keys: they keep the cores busy, and the clients alone take %s of a core for each. A proxy that took no time at all would
  come to about %.1f × etcd's at 64 connections. Each get takes %s of this proxy's time, %s of the floor's and %s of etcd's proxy.
- Everything else: a second hop, through gRPC once more, on the cores that direct requests have for themselves.
`, own.show(theirs), idle, server.show(ours), server.show(floor), server.show(theirs))
	return os.WriteFile(file, []byte(b.String()), 0o644)
}
