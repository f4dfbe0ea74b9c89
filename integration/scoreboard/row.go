package main

import (
	"slices"
	"time"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// row is one check, and what became of it with each contender.
type row struct {
	group string
	name  string // what must hold, in one sentence
	check func(*env)

	leased bool              // it makes no sense for the plain client
	known  string            // why this library is known to fail; empty if it must pass
	etcd   []etcdtest.Option // the cluster that it needs; one member will do for most
	limit  time.Duration     // how long a cell may take; 0 means cellLimit

	results [3]result
}

// applies reports whether the row makes sense for a contender.
func (r *row) applies(c int) bool { return c != contender.Plain || !r.leased }

// outcome is how a cell has ended.
type outcome string

const (
	passed  outcome = "pass"
	failed  outcome = "fail"
	skipped outcome = "n/a"
)

// result is what is in a cell.
type result struct {
	Outcome outcome
	Figure  string // short; may be empty
	Error   string // why it has failed, in one line
}

// allRows returns all rows, group by group.
func allRows() []*row {
	return slices.Concat(
		inGroup("Drop-in semantics: writes", writeRows()),
		inGroup("Drop-in semantics: reads", readRows()),
		inGroup("Drop-in semantics: transactions", txnRows()),
		inGroup("Cost", costRows()),
		inGroup("Protocol", protocolRows()),
		inGroup("Access", accessRows()),
		inGroup("Faults: writes, members and space", faultRows()),
		inGroup("Faults: owners cut off", outageRows()),
		inGroup("Faults: histories", stormRows()),
		inGroup("Opening and closing", lifeRows()),
	)
}

func inGroup(name string, rows []*row) []*row {
	for _, r := range rows {
		r.group = name
	}
	return rows
}
