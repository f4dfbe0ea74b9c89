package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// document is the board as Markdown.
type document struct {
	rows     []*row
	date     string
	versions []string
}

func (d document) render(w io.Writer) {
	fmt.Fprint(w, `# Scoreboard

One suite of black-box checks, one row a check, run on three contenders: etcd's plain client, etcd's own leasing package and
this library. Each cell has a process and an embedded etcd of its own, and the contenders get the same options. The plain
client says what is right; rows that make no sense for it have a – there. What this library is known to fail stands here, too.

A key is *owned* if the KV that acts owns it, *foreign* if another KV does. A *commit* is an entry in the log of etcd.

Made by `+"`make scoreboard`"+` on `+d.date+`, with

`)
	for _, v := range d.versions {
		fmt.Fprintf(w, "- %s\n", v)
	}
	d.summary(w)
	for _, g := range d.groups() {
		g.render(w)
	}
}

// part is the rows of one group, in their order.
type part struct {
	name string
	rows []*row
}

func (d document) groups() (all []part) {
	for _, r := range d.rows {
		if len(all) == 0 || all[len(all)-1].name != r.group {
			all = append(all, part{name: r.group})
		}
		last := &all[len(all)-1]
		last.rows = append(last.rows, r)
	}
	return all
}

// tableHead begins a table that has a column for each contender.
func tableHead(w io.Writer, first string) {
	fmt.Fprintf(w, "| %s |", first)
	for _, c := range contender.All {
		fmt.Fprintf(w, " %s |", c.Title)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(contender.All)))
}

// summary says how many of the rows that apply each contender has passed.
func (d document) summary(w io.Writer) {
	fmt.Fprint(w, "\n## Rows passed\n\n")
	tableHead(w, "group")
	for _, g := range append(d.groups(), part{"**all**", d.rows}) {
		fmt.Fprintf(w, "| %s |", g.name)
		for c := range contender.All {
			if n, of := score(g.rows, c); of > 0 {
				fmt.Fprintf(w, " %d of %d |", n, of)
			} else {
				fmt.Fprint(w, " – |")
			}
		}
		fmt.Fprintln(w)
	}
}

// score counts the rows that a contender has passed, and those that apply.
func score(rows []*row, c int) (n, of int) {
	for _, r := range rows {
		switch r.results[c].Outcome {
		case passed:
			n, of = n+1, of+1
		case failed:
			of++
		}
	}
	return n, of
}

func (p part) render(w io.Writer) {
	fmt.Fprintf(w, "\n## %s\n\n", p.name)
	tableHead(w, "what must hold")
	for _, r := range p.rows {
		fmt.Fprintf(w, "| %s |", escape(r.name))
		for _, res := range r.results {
			fmt.Fprintf(w, " %s |", strings.Join(nonEmpty(mark(res), escape(res.Figure)), " "))
		}
		fmt.Fprintln(w)
	}
	p.failures(w)
}

// failures explains each cell that has failed.
func (p part) failures(w io.Writer) {
	begun := false
	for _, r := range p.rows {
		for c, res := range r.results {
			if res.Outcome != failed {
				continue
			}
			if !begun {
				fmt.Fprint(w, "\nWhat fails:\n\n")
				begun = true
			}
			fmt.Fprintf(w, "- %s, *%s*: `%s`", contender.All[c].Title, r.name, strings.ReplaceAll(res.Error, "`", "'"))
			if c == contender.Ours && r.known != "" {
				fmt.Fprintf(w, " (known: %s)", r.known)
			}
			fmt.Fprintln(w)
		}
	}
}

// escape keeps a text within its cell of a table.
func escape(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
