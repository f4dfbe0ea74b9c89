// Package history checks that what the clients of an etcd saw of single keys
// is linearizable.
//
// etcd numbers its writes, so the order in which they took effect is known: it
// is that of their revisions, as a watch from the first one on tells it. What
// is left to decide is whether every operation can be given an instant between
// its call and its return that agrees with that order. That takes no search:
// giving each the earliest instant possible is best for all that follow.
package history

import (
	"fmt"
	"math"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Read is a read of a key that was answered.
type Read struct {
	Client    string
	Call, Ret int64            // when it began and ended, on one clock
	KV        *mvccpb.KeyValue // what it returned; nil if there was no such key
	Header    int64            // the revision in the header of the reply
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

// Never is the return time of an operation that nobody waited for.
const Never = math.MaxInt64

// state is what the key was from one of its events to the next.
type state struct {
	kv        *mvccpb.KeyValue // nil: absent
	rev       int64
	call, ret int64 // of the write
	reads     []Read
	at        int64 // the earliest instant at which it can have begun
}

// Check checks the operations on one key against its events, which must be
// all there are since the first revision. It returns nil if there is a
// linearization, and else what is wrong.
func Check(events []*clientv3.Event, writes []Write, reads []Read) error {
	states := []*state{{call: math.MinInt64, ret: Never, at: math.MinInt64}}
	byRev := map[int64]*state{}
	byValue := map[string]*state{}
	for _, ev := range events {
		s := &state{rev: ev.Kv.ModRevision, call: math.MinInt64, ret: Never}
		if ev.Type == mvccpb.PUT {
			s.kv = ev.Kv
			if byValue[string(ev.Kv.Value)] != nil {
				return fmt.Errorf("value %q was applied twice, at revisions %d and %d", ev.Kv.Value, byValue[string(ev.Kv.Value)].rev, s.rev)
			}
			byValue[string(ev.Kv.Value)] = s
		}
		byRev[s.rev] = s
		states = append(states, s)
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
		s.call = w.Call
		if w.Err == nil {
			s.ret = w.Ret
		}
	}
	var absent []Read
	for _, r := range reads {
		if r.KV == nil {
			absent = append(absent, r)
			continue
		}
		s := byRev[r.KV.ModRevision]
		if s == nil || s.kv == nil {
			return fmt.Errorf("%s read %v, which never was", r.Client, r.KV)
		}
		if string(s.kv.Value) != string(r.KV.Value) || s.kv.Version != r.KV.Version ||
			s.kv.CreateRevision != r.KV.CreateRevision || s.kv.Lease != r.KV.Lease {
			return fmt.Errorf("%s read %v, but it was %v", r.Client, r.KV, s.kv)
		}
		if r.Header < r.KV.ModRevision {
			return fmt.Errorf("%s read revision %d under a header of %d", r.Client, r.KV.ModRevision, r.Header)
		}
		s.reads = append(s.reads, r)
	}
	return place(states, absent)
}

// place gives every state the earliest instant at which it can have begun, and
// every read of absence the latest absent state that it can have seen: that
// one holds up the states after it the least. As doing so can only move
// instants later, it is repeated until nothing moves.
func place(states []*state, absent []Read) error {
	for {
		if err := earliest(states); err != nil {
			return err
		}
		if len(absent) == 0 {
			return nil
		}
		chosen := make(map[*state][]Read)
		for _, r := range absent {
			s := latestAbsent(states, r)
			if s == nil {
				return fmt.Errorf("%s read absence between %d and %d, when the key was there", r.Client, r.Call, r.Ret)
			}
			chosen[s] = append(chosen[s], r)
		}
		stable := true
		for _, s := range states {
			if s.kv == nil {
				stable = stable && slices.Equal(s.reads, chosen[s])
				s.reads = chosen[s]
			}
		}
		if stable {
			return nil
		}
	}
}

func earliest(states []*state) error {
	at := int64(math.MinInt64)
	for i, s := range states {
		at = max(at, s.call)
		s.at = at
		if s.ret < at {
			return fmt.Errorf("the write of revision %d returned at %d, but an operation that must come before it began at %d", s.rev, s.ret, at)
		}
		for _, r := range s.reads {
			if r.Ret < s.at {
				return fmt.Errorf("%s read revision %d and returned at %d, but it cannot have been there before %d", r.Client, s.rev, r.Ret, s.at)
			}
		}
		for _, r := range s.reads {
			at = max(at, r.Call)
		}
		if i+1 < len(states) && states[i+1].rev <= s.rev && i > 0 {
			return fmt.Errorf("events are out of order at revision %d", s.rev)
		}
	}
	return nil
}

func latestAbsent(states []*state, r Read) *state {
	i := sort.Search(len(states), func(i int) bool { return states[i].at > r.Ret })
	for i--; i >= 0; i-- {
		if states[i].kv == nil {
			return states[i]
		}
	}
	return nil
}
