// Package history checks that what the clients of an etcd saw of single keys
// is linearizable.
//
// etcd numbers its writes, so the order in which they took effect is known: it
// is that of their revisions, as a watch from the first one on tells it. What
// is left to decide is whether every operation can be given an instant between
// its call and its return that agrees with that order. That is for porcupine.
package history

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Read is a read of a key that was answered.
type Read struct {
	Client    string
	Call, Ret int64            // when it began and ended, on one clock
	KV        *mvccpb.KeyValue // what it returned; nil if there was no such key
	Header    int64            // the revision in the header of the reply
	AsOf      bool             // the reply claims to be as of that revision: nothing was written with the read
}

// Write is a write of a key. Value must be unique; the deletions that etcd
// acknowledged are known by their revision.
type Write struct {
	Client    string
	Call, Ret int64
	Delete    bool
	Value     string
	Err       error // not nil: it may have been applied or not, at any time
	Rev       int64 // the revision in the header of the reply
	Changed   bool  // for a Delete: it found something
}

// state is what the key was from one of its events to the next.
type state struct {
	kv        *mvccpb.KeyValue // nil: absent
	rev       int64
	client    string // who wrote it, if that is known
	call, ret int64  // of the write
}

// Violation is a history that is not linearizable.
type Violation struct {
	model porcupine.Model
	info  porcupine.LinearizationInfo
}

func (v *Violation) Error() string { return "the history is not linearizable" }

// Picture writes the history as an HTML page, with the longest parts of it that
// are linearizable.
func (v *Violation) Picture(w io.Writer) error { return porcupine.Visualize(v.model, v.info, w) }

// ErrUnknown means that the check was given up: whether the history is
// linearizable is not known.
var ErrUnknown = errors.New("history: the check takes too long")

// limit is how long porcupine may take for one key.
const limit = time.Minute

// Check checks the operations on one key against its events, which must be
// all there are since the first revision. It returns nil if there is a
// linearization, and else what is wrong: a *Violation, or what is plainly wrong
// with one operation.
func Check(events []*clientv3.Event, writes []Write, reads []Read) error {
	states, err := statesOf(events)
	if err != nil {
		return err
	}
	if err := attribute(states, writes); err != nil {
		return err
	}
	h := history{states: states, clients: make(map[string]int)}
	for _, r := range reads {
		if err := h.read(r); err != nil {
			return err
		}
	}
	return h.check()
}

// statesOf returns the states of a key, from its absence at first on.
func statesOf(events []*clientv3.Event) ([]*state, error) {
	states := []*state{{}}
	at := make(map[string]int64) // the revision of each value
	for _, ev := range events {
		s := &state{rev: ev.Kv.ModRevision, client: "unknown", ret: math.MaxInt64}
		if last := states[len(states)-1]; s.rev <= last.rev {
			return nil, fmt.Errorf("events are out of order: revision %d after %d", s.rev, last.rev)
		}
		if ev.Type == mvccpb.PUT {
			s.kv = ev.Kv
			v := string(ev.Kv.Value)
			if at[v] != 0 {
				return nil, fmt.Errorf("value %q was applied twice, at revisions %d and %d", v, at[v], s.rev)
			}
			at[v] = s.rev
		}
		states = append(states, s)
	}
	return states, nil
}

// attribute tells the states who wrote them, and when.
func attribute(states []*state, writes []Write) error {
	byRev, byValue := make(map[int64]*state), make(map[string]*state)
	for _, s := range states[1:] {
		byRev[s.rev] = s
		if s.kv != nil {
			byValue[string(s.kv.Value)] = s
		}
	}
	for _, w := range writes {
		s := byValue[w.Value]
		switch {
		case w.Delete && (w.Err != nil || !w.Changed):
			continue // a deletion of unknown outcome is not told from others
		case w.Delete:
			s = byRev[w.Rev]
			if s == nil || s.kv != nil {
				return fmt.Errorf("%s deleted at revision %d, but there is no such event", w.Client, w.Rev)
			}
		case w.Err != nil && s == nil:
			continue
		case s == nil:
			return fmt.Errorf("%s put %q at revision %d, but there is no such event", w.Client, w.Value, w.Rev)
		case w.Err == nil && s.rev != w.Rev:
			return fmt.Errorf("%s put %q at revision %d, but the event says %d", w.Client, w.Value, w.Rev, s.rev)
		}
		s.client, s.call = w.Client, w.Call
		if w.Err == nil {
			s.ret = w.Ret
		}
	}
	return nil
}

// history is the operations on one key, for porcupine.
type history struct {
	states  []*state
	reads   []porcupine.Operation
	clients map[string]int
	end     int64 // after everything that has returned
}

// operation is the input of a porcupine.Operation.
type operation struct {
	write bool
	state int // that it makes, or has seen; absent if it has seen absence at any time
	told  string
}

const absent = -1

func (h *history) read(r Read) error {
	seen, err := h.seen(r)
	if err != nil {
		return err
	}
	h.end = max(h.end, r.Ret)
	h.reads = append(h.reads, porcupine.Operation{
		ClientId: h.client(r.Client), Call: r.Call, Return: r.Ret,
		Input: operation{state: seen, told: fmt.Sprintf("%s reads %v as of %d", r.Client, r.KV, r.Header)},
	})
	return nil
}

// seen returns which state r has seen.
func (h *history) seen(r Read) (int, error) {
	current := absent
	for i, s := range h.states {
		if r.AsOf && s.rev <= r.Header || r.KV != nil && s.rev == r.KV.ModRevision {
			current = i
		}
	}
	switch {
	case r.KV != nil && (current == absent || h.states[current].kv == nil && !r.AsOf):
		return 0, fmt.Errorf("%s read %v, which never was", r.Client, r.KV)
	case r.KV != nil && r.Header < r.KV.ModRevision:
		return 0, fmt.Errorf("%s read revision %d under a header of %d", r.Client, r.KV.ModRevision, r.Header)
	case current != absent && !same(h.states[current].kv, r.KV):
		return 0, fmt.Errorf("%s read %v as of revision %d, but it was %v", r.Client, r.KV, r.Header, h.states[current].kv)
	}
	return current, nil
}

func same(a, b *mvccpb.KeyValue) bool {
	if a == nil || b == nil {
		return a == b
	}
	return string(a.Value) == string(b.Value) && a.Version == b.Version && a.ModRevision == b.ModRevision &&
		a.CreateRevision == b.CreateRevision && a.Lease == b.Lease
}

func (h *history) client(name string) int {
	if _, ok := h.clients[name]; !ok {
		h.clients[name] = len(h.clients)
	}
	return h.clients[name]
}

func (h *history) check() error {
	ops := h.reads
	for _, s := range h.states[1:] {
		if s.ret != math.MaxInt64 {
			h.end = max(h.end, s.ret)
		}
	}
	for i, s := range h.states[1:] {
		ops = append(ops, porcupine.Operation{
			ClientId: h.client(s.client), Call: s.call, Return: min(s.ret, h.end+1),
			Input: operation{write: true, state: i + 1, told: fmt.Sprintf("%s writes %v at %d", s.client, s.kv, s.rev)},
		})
	}
	model := porcupine.Model{
		Init: func() any { return 0 },
		Step: func(st, in, _ any) (bool, any) {
			now, op := st.(int), in.(operation)
			switch {
			case op.write:
				return op.state == now+1, now + 1
			case op.state == absent:
				return h.states[now].kv == nil, now
			}
			return op.state == now, now
		},
		DescribeOperation: func(in, _ any) string { return in.(operation).told },
		DescribeState:     func(st any) string { return fmt.Sprint(h.states[st.(int)].kv) },
	}
	switch result, info := porcupine.CheckOperationsVerbose(model, ops, limit); result {
	case porcupine.Illegal:
		return &Violation{model, info}
	case porcupine.Unknown:
		return ErrUnknown
	}
	return nil
}
