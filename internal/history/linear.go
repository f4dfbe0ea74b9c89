package history

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// history is the operations on some keys, as porcupine wants them.
type history struct {
	keys   []states
	names  []string
	writes map[int64]*operation // by revision
	calls  map[int64]*operation // by call; deletions by nobody knows whom are not there

	revs []int64 // of all writes, in order
	at   [][]int // for each number of them, the state of every key
}

// operation is what happened at one instant.
type operation struct {
	client    string
	call, ret int64
	rev       int64 // that it made; zero if it wrote nothing
	sights    []sight
	made      []string // what it wrote
}

func newHistory() *history {
	return &history{writes: make(map[int64]*operation), calls: make(map[int64]*operation)}
}

// write takes in the events and the writes of one key.
func (h *history) write(k Key) error {
	all, err := statesOf(k.Events)
	if err != nil {
		return err
	}
	if err := all.attribute(k.Writes); err != nil {
		return err
	}
	h.keys, h.names = append(h.keys, all), append(h.names, k.Name)
	for _, s := range all[1:] {
		op := h.writes[s.rev]
		if op == nil {
			op = &operation{client: "unknown", rev: s.rev, ret: math.MaxInt64}
			h.writes[s.rev] = op
		}
		op.made = append(op.made, fmt.Sprintf("%s becomes %v", k.Name, s.kv))
		if s.client == "" {
			continue
		}
		op.client, op.call, op.ret = s.client, s.call, min(op.ret, s.ret)
		if other := h.calls[s.call]; other != nil && other != op {
			return fmt.Errorf("%s wrote at revision %d, and in the same call at %d", s.client, other.rev, s.rev)
		}
		h.calls[s.call] = op
	}
	return nil
}

// read takes in the reads of the i-th key, once all writes are there.
func (h *history) read(i int, reads []Read) error {
	for _, r := range reads {
		s, err := h.keys[i].sees(r)
		if err != nil {
			return err
		}
		op := h.calls[r.Call]
		if op == nil {
			op = &operation{client: r.Client, call: r.Call, ret: r.Ret}
			h.calls[r.Call] = op
		}
		s.key, s.name = i, h.names[i]
		op.call, op.ret = min(op.call, cmp.Or(r.Since, r.Call)), min(op.ret, r.Ret)
		op.sights = append(op.sights, s)
	}
	return nil
}

// check has porcupine look for a linearization, in parts of about the given
// size.
func (h *history) check(size int) error {
	h.revs = slices.Sorted(maps.Keys(h.writes))
	h.at = h.current()
	ops := h.operations()
	bounds := h.bounds(ops)
	if err := bounds.conflict(); err != nil {
		return &Violation{err, h.model(0), bounds.porcupine(ops)}
	}
	for _, p := range h.parts(bounds, bounds.porcupine(ops), size) {
		switch porcupine.CheckOperationsTimeout(h.model(p.first), p.ops, limit) {
		case porcupine.Illegal:
			return &Violation{errIllegal, h.model(p.first), p.ops}
		case porcupine.Unknown:
			return ErrUnknown
		}
	}
	return nil
}

// model is that of the keys when so many writes have been made at first. Its
// state is how many have been made.
func (h *history) model(first int) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return first },
		Step: func(st, in, _ any) (bool, any) {
			now, op := st.(int), in.(*operation)
			switch {
			case !h.agrees(op, now):
				return false, now
			case op.rev == 0:
				return true, now
			}
			return now < len(h.revs) && h.revs[now] == op.rev, now + 1
		},
		DescribeOperation: func(in, _ any) string { return in.(*operation).String() },
		DescribeState:     func(st any) string { return h.describe(h.at[st.(int)]) },
	}
}

// agrees reports whether op may have seen what it has when so many writes had
// been made.
func (h *history) agrees(op *operation, now int) bool {
	for _, s := range op.sights {
		if !s.agrees(h.keys[s.key], h.at[now][s.key]) {
			return false
		}
	}
	return true
}

// current returns, for each number of revisions made, the state of every key.
func (h *history) current() [][]int {
	now := make([]int, len(h.keys))
	at := [][]int{slices.Clone(now)}
	for _, rev := range h.revs {
		for i, all := range h.keys {
			if next := now[i] + 1; next < len(all) && all[next].rev == rev {
				now[i] = next
			}
		}
		at = append(at, slices.Clone(now))
	}
	return at
}

// operations lists all: the writes in the order of their revisions, then the
// reads. What has not returned may have come at any time up to the end of
// everything.
func (h *history) operations() []*operation {
	var all []*operation
	for _, rev := range h.revs {
		all = append(all, h.writes[rev])
	}
	for _, call := range slices.Sorted(maps.Keys(h.calls)) {
		if op := h.calls[call]; op.rev == 0 {
			all = append(all, op)
		}
	}
	end := int64(0)
	for _, op := range all {
		end = max(end, op.call)
		if op.ret != math.MaxInt64 {
			end = max(end, op.ret)
		}
	}
	for _, op := range all {
		op.ret = min(op.ret, end+1)
	}
	return all
}

func (h *history) describe(at []int) string {
	var b strings.Builder
	for i, n := range at {
		fmt.Fprintf(&b, "%s: %v  ", h.names[i], h.keys[i][n].kv)
	}
	return b.String()
}

func (op *operation) String() string {
	told := op.made
	for _, s := range op.sights {
		told = append(told, s.String())
	}
	if op.rev == 0 {
		return fmt.Sprintf("%s: %s", op.client, strings.Join(told, ", "))
	}
	return fmt.Sprintf("%s at revision %d: %s", op.client, op.rev, strings.Join(told, ", "))
}
