package history

import (
	"fmt"
	"sort"

	"github.com/anishathalye/porcupine"
)

// bounds narrow down when each write came. A read that began when it had seen
// only what was before a write shows that the write came later than that; one
// that has seen it shows that it came before the read returned. And writes come
// in the order of their revisions. Without this porcupine tries writes that
// took long, or of which nobody knows when they came, as early as it can, and
// finds out much later, after exponentially many tries.
//
// Times count twice here, so that there is one between any two.
type bounds struct {
	from, to []bound    // of the i-th write
	torn     *operation // it has seen what never was at one time, or not when it wrote
}

type bound struct {
	time int64
	by   *operation
}

// bounds starts from when the writes were called and returned, and narrows that
// down until no read says any more.
func (h *history) bounds(ops []*operation) *bounds {
	n := len(h.revs)
	b := &bounds{from: make([]bound, n), to: make([]bound, n)}
	for i, op := range ops[:n] {
		b.from[i], b.to[i] = bound{2 * op.call, op}, bound{2 * op.ret, op}
		if !h.agrees(op, i) {
			b.torn = op
		}
	}
	var known *bounds // nothing of when the writes came, so that conflicts are between two operations
	for narrower := true; narrower; known = b {
		narrower = known == nil
		for _, op := range ops[n:] {
			narrower = h.narrow(b, op, known) || narrower
		}
		b.inOrder()
		if b.conflict() != nil {
			break
		}
	}
	return b
}

// narrow takes in what a read says of the writes before and after it, and
// reports whether that is more than was known.
func (h *history) narrow(b *bounds, op *operation, known *bounds) (narrower bool) {
	first, last := h.span(known, op)
	if first > last {
		b.torn = op
		return false
	}
	if t := 2*op.call + 1; last < len(b.from) && t > b.from[last].time {
		b.from[last], narrower = bound{t, op}, true
	}
	if t := 2*op.ret - 1; first > 0 && t < b.to[first-1].time {
		b.to[first-1], narrower = bound{t, op}, true
	}
	return narrower
}

// inOrder takes in that writes came one after the other.
func (b *bounds) inOrder() {
	n := len(b.from)
	for i := 1; i < n; i++ {
		if b.from[i].time < b.from[i-1].time {
			b.from[i] = b.from[i-1]
		}
	}
	for i := n - 2; i >= 0; i-- {
		if b.to[i].time > b.to[i+1].time {
			b.to[i] = b.to[i+1]
		}
	}
}

// span returns how many writes had been made, at least and at most, when a read
// came, as far as what it saw tells, and what is known of when they came.
func (h *history) span(known *bounds, op *operation) (first, last int) {
	n := len(h.revs)
	last = n
	if known != nil {
		first = sort.Search(n, func(i int) bool { return known.to[i].time >= 2*op.call })
		last = sort.Search(n, func(i int) bool { return known.from[i].time > 2*op.ret })
	}
	for _, s := range op.sights {
		if s.state == absent {
			continue // more than once, perhaps
		}
		first = max(first, sort.Search(n, func(i int) bool { return h.at[i][s.key] >= s.state }))
		last = min(last, sort.Search(n, func(i int) bool { return h.at[i+1][s.key] > s.state }))
	}
	for first <= last && !h.agrees(op, first) {
		first++
	}
	for first <= last && !h.agrees(op, last) {
		last--
	}
	return first, last
}

// conflict tells of operations that contradict each other.
func (b *bounds) conflict() error {
	if b.torn != nil {
		return fmt.Errorf("never at one time between %d and %d: %v", b.torn.call, b.torn.ret, b.torn)
	}
	for i := range b.from {
		if from, to := b.from[i], b.to[i]; from.time > to.time {
			return fmt.Errorf("after %v had returned at %d, which is too late to come before it, there began at %d: %v",
				to.by, to.time/2, from.time/2, from.by)
		}
	}
	return nil
}

// porcupine returns the operations within their bounds. Those that contradict
// each other keep their times.
func (b *bounds) porcupine(ops []*operation) []porcupine.Operation {
	clients := make(map[string]int)
	all := make([]porcupine.Operation, len(ops))
	for i, op := range ops {
		if _, ok := clients[op.client]; !ok {
			clients[op.client] = len(clients)
		}
		all[i] = porcupine.Operation{ClientId: clients[op.client], Input: op, Call: 2 * op.call, Return: 2 * op.ret}
		if i < len(b.from) && b.from[i].time <= b.to[i].time {
			all[i].Call, all[i].Return = b.from[i].time, b.to[i].time
		}
	}
	return all
}
