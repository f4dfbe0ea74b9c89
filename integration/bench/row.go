package main

import (
	"fmt"
	"math"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// The subjects of a row: the contenders, and the floor, which is the least that
// a read from memory can cost.
const (
	floorSubject = len(contender.All)
	subjects     = floorSubject + 1
)

// experiment measures one thing, for one subject at a time. Each of its rows
// shows one figure of it.
type experiment struct {
	group   string
	rows    []*row
	who     []int                // its subjects; nil means all contenders
	rounds  int                  // the most; 0 means as many as there are
	repeats int                  // how much more often than other experiments it has rounds; 0 means as often
	theirs  int                  // the same for etcd's leasing
	measure func(*env) []float64 // a figure for each row
}

var (
	everybody = []int{contender.Plain, contender.Theirs, contender.Ours}
	leased    = []int{contender.Theirs, contender.Ours}
	withFloor = []int{floorSubject, contender.Theirs, contender.Ours}
)

func (x *experiment) subjects() []int {
	if x.who == nil {
		return everybody
	}
	return x.who
}

// takes reports whether a subject is measured in a round, which counts from 0.
func (x *experiment) takes(subject, round int) bool {
	if subject == contender.Theirs && x.theirs > 0 && round >= x.theirs {
		return false
	}
	return x.rounds == 0 || round < x.rounds
}

// row is one line of the table: one figure of each subject.
type row struct {
	name string
	unit unit
	want *target // nil if there is none
	note string  // what a reader has to know of it

	figures [subjects][]float64 // one for each round
}

// figure returns the median over the rounds; NaN if there was none.
func (r *row) figure(subject int) float64 { return median(r.figures[subject]) }

// base returns what the figures of a row are compared with: the plain client's,
// or the floor, or that of etcd's leasing; -1 if there is none.
func (r *row) base() int {
	for _, s := range []int{contender.Plain, floorSubject, contender.Theirs} {
		if r.unit != times && r.figure(s) > 0 {
			return s
		}
	}
	return -1
}

// target is what a figure of this library shall be.
type target struct {
	text    string // as it is shown
	atLeast bool   // else at most
	factor  float64
	of      string // a row; empty if factor is no factor, but the limit itself
	subject int    // of that row
}

// same as the row's own name, as the row of a target.
const sameRow = "."

func most(limit float64, text string) *target { return &target{text: "≤ " + text, factor: limit} }
func least(limit float64, text string) *target {
	return &target{text: "≥ " + text, factor: limit, atLeast: true}
}

// mostOf and leastOf compare with another subject's figure in the same row.
func mostOf(factor float64, subject int) *target {
	return &target{text: fmt.Sprintf("≤ %v × %s", factor, subjectName(subject)), factor: factor, of: sameRow, subject: subject}
}

func leastOf(factor float64, subject int) *target {
	return &target{text: fmt.Sprintf("≥ %v × %s", factor, subjectName(subject)), factor: factor, of: sameRow, subject: subject, atLeast: true}
}

// mostOfRow compares with a subject's figure in another row.
func mostOfRow(factor float64, row string, subject int, what string) *target {
	return &target{text: fmt.Sprintf("≤ %v × %s", factor, what), factor: factor, of: row, subject: subject}
}

func subjectName(subject int) string {
	return [subjects]string{"plain", "etcd's leasing", "ours", "floor"}[subject]
}

// verdict is what became of a target.
type verdict struct {
	known bool // both sides were measured
	met   bool
	ratio float64 // to what is compared with; NaN for a limit
}

// judge compares this library's figure with the row's target.
func (r *row) judge(find func(name string) *row) verdict {
	v := verdict{ratio: math.NaN()}
	got, limit := r.figure(contender.Ours), r.want.factor
	if r.want.of != "" {
		other := r
		if r.want.of != sameRow {
			other = find(r.want.of)
		}
		if other == nil {
			return v
		}
		v.ratio = got / other.figure(r.want.subject)
		got = v.ratio
	}
	v.known = !math.IsNaN(got)
	v.met = v.known && (got == limit || (got > limit) == r.want.atLeast)
	return v
}
