package history

import (
	"github.com/anishathalye/porcupine"
)

// partSize is about how many operations porcupine gets at once. The time and
// the memory that it takes grow with the square of their number.
const partSize = 2000

// part is what happened from one write on, up to another.
type part struct {
	first int // how many writes had been made before
	ops   []porcupine.Operation
}

// parts cuts a history, whose writes do not contradict their bounds, into parts
// of at least the given size that are linearizable if and only if all of it is.
//
// It is cut at writes of which every read is known to be on one side. All that
// one side has to know of the other then is when the write between them came,
// and that is in its bounds: if it came as early as they allow, that is early
// enough for all that follows, and late enough for all that precedes it.
func (h *history) parts(b *bounds, ops []porcupine.Operation, size int) []part {
	n := len(h.revs)
	doubts := make([]int, n+1)                  // how many more reads may be on either side of a write than of the one before
	reads := make([][]porcupine.Operation, n+1) // by the first write that they must precede
	for _, op := range ops[n:] {
		from, to := h.span(b, op.Input.(*operation))
		doubts[from]++
		doubts[to]--
		reads[to] = append(reads[to], op)
	}
	var parts []part
	var p part
	doubtful := 0
	for i := range n {
		p.ops = append(p.ops, reads[i]...)
		doubtful += doubts[i]
		if doubtful == 0 && len(p.ops) >= size {
			parts, p = append(parts, p), part{first: i}
		}
		p.ops = append(p.ops, ops[i])
	}
	p.ops = append(p.ops, reads[n]...)
	return append(parts, p)
}
