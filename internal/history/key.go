package history

import (
	"fmt"
	"math"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// state is what a key was from one of its events to the next.
type state struct {
	kv        *mvccpb.KeyValue // nil: absent
	rev       int64
	client    string // who wrote it; empty if that is not known
	call, ret int64  // of the write
}

// states are those of one key, from its absence at first on.
type states []*state

func statesOf(events []*clientv3.Event) (states, error) {
	all := states{{}}
	at := make(map[string]int64) // the revision of each value
	for _, ev := range events {
		s := &state{rev: ev.Kv.ModRevision, ret: math.MaxInt64}
		if last := all[len(all)-1]; s.rev <= last.rev {
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
		all = append(all, s)
	}
	return all, nil
}

// attribute tells the states who wrote them, and when.
func (all states) attribute(writes []Write) error {
	byRev, byValue := make(map[int64]*state), make(map[string]*state)
	for _, s := range all[1:] {
		byRev[s.rev] = s
		if s.kv != nil {
			byValue[string(s.kv.Value)] = s
		}
	}
	for _, w := range writes {
		s := byValue[w.Value]
		if w.Delete {
			s = byRev[w.Rev]
		}
		switch {
		case w.Delete && w.Err == nil && !w.Changed, w.Err != nil && s == nil:
			continue // it changed nothing that is known of
		case w.Delete && (s == nil || s.kv != nil):
			return fmt.Errorf("%s deleted at revision %d, but there is no such event", w.Client, w.Rev)
		case s == nil:
			return fmt.Errorf("%s put %q at revision %d, but there is no such event", w.Client, w.Value, w.Rev)
		case w.Rev != 0 && s.rev != w.Rev:
			return fmt.Errorf("%s put %q at revision %d, but the event says %d", w.Client, w.Value, w.Rev, s.rev)
		}
		s.client, s.call = w.Client, w.Call
		if w.Err == nil {
			s.ret = w.Ret
		}
	}
	return nil
}

// sight is what a read has seen of a key: the state of that number, absence at
// any time, or something that holds of it.
type sight struct {
	Read
	name  string // of the key
	key   int
	state int
}

const absent = -1

// agrees reports whether the read may have come when the state of that number
// was current.
func (s sight) agrees(all states, now int) bool {
	switch {
	case s.state == absent && s.Holds != nil:
		return s.Holds(all[now].kv)
	case s.state == absent:
		return all[now].kv == nil
	}
	return s.state == now
}

func (s sight) String() string {
	if s.Holds != nil {
		return fmt.Sprintf("%s compared as of %d", s.name, s.Header)
	}
	return fmt.Sprintf("%s read as %v as of %d", s.name, s.KV, s.Header)
}

// sees returns what r has seen.
func (all states) sees(r Read) (sight, error) {
	if r.Since != 0 && r.AsOf {
		// Its header may be wrong, but seldom is, and then tells more.
		r.Since = 0
		if s, err := all.sees(r); err == nil {
			return s, nil
		}
		r.AsOf = false
	}
	if r.Holds != nil && !r.AsOf {
		return sight{Read: r, state: absent}, nil
	}
	current := absent
	for i, s := range all {
		if r.AsOf && s.rev <= r.Header || r.KV != nil && s.rev == r.KV.ModRevision {
			current = i
		}
	}
	switch {
	case r.Holds != nil && !r.Holds(all[current].kv):
		return sight{}, fmt.Errorf("%s compared wrongly as of revision %d, when it was %v", r.Client, r.Header, all[current].kv)
	case r.Holds != nil:
	case r.KV != nil && (current == absent || all[current].kv == nil && !r.AsOf):
		return sight{}, fmt.Errorf("%s read %v, which never was", r.Client, r.KV)
	case r.KV != nil && r.Header < r.KV.ModRevision:
		return sight{}, fmt.Errorf("%s read revision %d under a header of %d", r.Client, r.KV.ModRevision, r.Header)
	case current != absent && !same(all[current].kv, r.KV):
		return sight{}, fmt.Errorf("%s read %v as of revision %d, but it was %v", r.Client, r.KV, r.Header, all[current].kv)
	}
	return sight{Read: r, state: current}, nil
}

func same(a, b *mvccpb.KeyValue) bool {
	if a == nil || b == nil {
		return a == b
	}
	return string(a.Value) == string(b.Value) && a.Version == b.Version && a.ModRevision == b.ModRevision &&
		a.CreateRevision == b.CreateRevision && a.Lease == b.Lease
}
