package main

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// document is the table as Markdown.
type document struct {
	experiments []*experiment
	find        func(name string) *row
	about       []string // machine, versions, date, command
	plots       []plotFile
}

// plotFile is a picture beside the document.
type plotFile struct{ file, caption string }

func (d document) render(w io.Writer) {
	fmt.Fprint(w, `# Benchmarks

The plain client, etcd's own leasing package and this library, side by side. In each row each of them has a real etcd to
itself, a process of its own on loopback that writes to disk for good before it answers. They take turns, round by round; a
figure is the median over the rounds, of which reads from memory have three times as many as the rest. The ratio in brackets is to
the plain client; where that has no figure, to the floor; and without a floor, to etcd's leasing package. Keys have 16 bytes, and
values too, where nothing else is said.

The *floor* is about the least that a read from memory can cost: one look-up in a map, one check of the clock, and one reply that the
caller may change: reply, header, key-value and their bytes. A key is *owned* if the KV that acts owns it, *foreign* if another
KV does. Percentiles are of one operation after the other. The process of the clients holds 64 MB besides, so that garbage is
collected equally often for all.

`)
	for _, line := range d.about {
		fmt.Fprintf(w, "- %s\n", line)
	}
	d.summary(w)
	for _, g := range d.groups() {
		d.table(w, g)
	}
	if len(d.plots) > 0 {
		fmt.Fprint(w, "\n## Plots\n")
	}
	for _, p := range d.plots {
		fmt.Fprintf(w, "\n![%s](%s)\n", p.caption, p.file)
	}
}

// summary counts the targets, and those that are met.
func (d document) summary(w io.Writer) {
	met, of := 0, 0
	for _, r := range allRows(d.experiments) {
		if r.want == nil {
			continue
		}
		switch v := r.judge(d.find); {
		case v.met:
			met, of = met+1, of+1
		case v.known:
			of++
		}
	}
	fmt.Fprintf(w, "\n%d of %d targets are met", met, of)
	if met < of {
		fmt.Fprint(w, "; the others are marked **no**")
	}
	fmt.Fprintln(w, ".")
}

func allRows(experiments []*experiment) (all []*row) {
	for _, x := range experiments {
		all = append(all, x.rows...)
	}
	return all
}

// groups returns the experiments group by group, in their order.
func (d document) groups() (all [][]*experiment) {
	for _, x := range d.experiments {
		if n := len(all); n > 0 && all[n-1][0].group == x.group {
			all[n-1] = append(all[n-1], x)
		} else {
			all = append(all, []*experiment{x})
		}
	}
	return all
}

func (d document) table(w io.Writer, group []*experiment) {
	fmt.Fprintf(w, "\n## %s\n\n| what |", group[0].group)
	for _, c := range contender.All {
		fmt.Fprintf(w, " %s |", c.Title)
	}
	fmt.Fprint(w, " target | met |\n|---|---|---|---|---|---|\n")
	for _, r := range allRows(group) {
		name := escape(r.name)
		if r.note != "" {
			name += " (" + escape(r.note) + ")"
		}
		if f := r.figure(floorSubject); !math.IsNaN(f) {
			if r.ofFloorAlone() {
				fmt.Fprintf(w, "| *floor*: %s | – | – | – | *%s* | |\n", name, r.unit.show(f))
				continue
			}
			fmt.Fprintf(w, "| *floor*: %s | – | – | – | *%s* | |\n", escape(r.name), r.unit.show(f))
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", name, r.cell(contender.Plain), r.cell(contender.Theirs),
			r.cell(contender.Ours), r.targetText(), r.verdictText(d.find))
	}
}

// ofFloorAlone reports whether no contender was measured.
func (r *row) ofFloorAlone() bool {
	for c := range contender.All {
		if !math.IsNaN(r.figure(c)) {
			return false
		}
	}
	return true
}

// cell shows a subject's figure, and its ratio to that of the base.
func (r *row) cell(subject int) string {
	f, base := r.figure(subject), r.base()
	text := r.unit.show(f)
	if math.IsNaN(f) || base < 0 || base == subject {
		return text
	}
	return fmt.Sprintf("%s (%s)", text, times.show(f/r.figure(base)))
}

func (r *row) targetText() string {
	if r.want == nil {
		return ""
	}
	return r.want.text
}

func (r *row) verdictText(find func(string) *row) string {
	if r.want == nil {
		return ""
	}
	v := r.judge(find)
	text := map[bool]string{true: "yes", false: "**no**"}[v.met]
	switch {
	case !v.known:
		return "not measured"
	case math.IsNaN(v.ratio):
		return text
	}
	return fmt.Sprintf("%s, %s", text, times.show(v.ratio))
}

// escape keeps a text within its cell of a table.
func escape(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
