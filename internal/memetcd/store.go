package memetcd

import (
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// store is the multi-version map of keys. It knows nothing of leases, watches or requests. The server
// owns it and guards it with its lock.
//
// Invariant: a KeyValue in the store is never changed, so that replies may point at it.
type store struct {
	rev       int64 // of the last write; 1 when empty
	compacted int64 // reads below it are refused; -1 before the first compaction
	keys      []string
	histories map[string]*history
	log       []revision // the events of every revision from compacted on, oldest first
}

// history is what happened to one key, oldest first.
type history struct {
	changes []change
}

// change is one put, or a deletion if kv is nil. Within one revision the last one counts.
type change struct {
	rev int64
	kv  *mvccpb.KeyValue
}

// revision is one write transaction's worth of events, in the order of its operations.
type revision struct {
	rev    int64
	events []*mvccpb.Event
}

func newStore() *store {
	return &store{rev: 1, compacted: -1, histories: make(map[string]*history)}
}

// get returns the key as it was at rev, or nil.
func (s *store) get(key string, rev int64) *mvccpb.KeyValue {
	h := s.histories[key]
	if h == nil {
		return nil
	}
	for i := len(h.changes) - 1; i >= 0; i-- {
		if h.changes[i].rev <= rev {
			return h.changes[i].kv
		}
	}
	return nil
}

// list returns the keys in r as they were at rev, in key order.
func (s *store) list(r keyRange, rev int64) []*mvccpb.KeyValue {
	if r.one {
		if kv := s.get(r.key, rev); kv != nil {
			return []*mvccpb.KeyValue{kv}
		}
		return nil
	}
	var kvs []*mvccpb.KeyValue
	for _, key := range s.keys[sort.SearchStrings(s.keys, r.key):] {
		if !r.contains(key) {
			break
		}
		if kv := s.get(key, rev); kv != nil {
			kvs = append(kvs, kv)
		}
	}
	return kvs
}

func (s *store) record(key string, c change) {
	h := s.histories[key]
	if h == nil {
		h = new(history)
		s.histories[key] = h
		i := sort.SearchStrings(s.keys, key)
		s.keys = slices.Insert(s.keys, i, key)
	}
	h.changes = append(h.changes, c)
}

// since returns the revisions from rev on.
func (s *store) since(rev int64) []revision {
	i := sort.Search(len(s.log), func(i int) bool { return s.log[i].rev >= rev })
	return s.log[i:]
}

// compact forgets what only revisions below rev need. A watch may still start at rev itself.
func (s *store) compact(rev int64) error {
	if rev <= s.compacted {
		return rpctypes.ErrGRPCCompacted
	}
	if rev > s.rev {
		return rpctypes.ErrGRPCFutureRev
	}
	s.compacted = rev
	for key, h := range s.histories {
		h.compact(rev)
		if len(h.changes) == 0 {
			delete(s.histories, key)
		}
	}
	s.keys = slices.DeleteFunc(s.keys, func(key string) bool { return s.histories[key] == nil })
	s.log = slices.Clone(s.since(rev))
	if len(s.log) > 0 && s.log[0].rev == rev {
		s.log[0].events = lastPerKey(s.log[0].events)
	}
	return nil
}

// compact keeps the last change up to rev, unless it is a deletion, and all later ones.
func (h *history) compact(rev int64) {
	i := sort.Search(len(h.changes), func(i int) bool { return h.changes[i].rev > rev })
	if i > 0 && h.changes[i-1].kv != nil {
		i--
	}
	h.changes = slices.Clone(h.changes[i:])
}

// lastPerKey drops the events of a revision that another event of the same revision superseded.
func lastPerKey(events []*mvccpb.Event) []*mvccpb.Event {
	last := make(map[string]*mvccpb.Event, len(events))
	for _, ev := range events {
		last[string(ev.Kv.Key)] = ev
	}
	var kept []*mvccpb.Event
	for _, ev := range events {
		if last[string(ev.Kv.Key)] == ev {
			kept = append(kept, ev)
		}
	}
	return kept
}

// view is the store as a request sees it: all reads are of one revision, or of earlier ones.
type view struct {
	*store
	rev int64
}

func (s *store) view() view { return view{s, s.rev} }

// writer is a write transaction. Its changes belong to the next revision, which exists only once there
// is a change. It is not undone: whoever uses it has checked everything before.
type writer struct {
	*store
	base   int64
	events []*mvccpb.Event
}

func (s *store) begin() *writer { return &writer{store: s, base: s.rev} }

// view includes the changes made so far.
func (w *writer) view() view { return view{w.store, w.rev()} }

// rev is the revision that a reply should carry at this point of the transaction.
func (w *writer) rev() int64 {
	if len(w.events) > 0 {
		return w.base + 1
	}
	return w.base
}

func (w *writer) put(key string, value []byte, lease int64) {
	kv := &mvccpb.KeyValue{
		Key:            []byte(key),
		Value:          value,
		CreateRevision: w.base + 1,
		ModRevision:    w.base + 1,
		Version:        1,
		Lease:          lease,
	}
	if old := w.get(key, w.base+1); old != nil {
		kv.CreateRevision = old.CreateRevision
		kv.Version = old.Version + 1
	}
	w.record(key, change{w.base + 1, kv})
	w.events = append(w.events, &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv})
}

// delete removes an existing key.
func (w *writer) delete(key string) {
	w.record(key, change{rev: w.base + 1})
	w.events = append(w.events, &mvccpb.Event{
		Type: mvccpb.Event_DELETE,
		Kv:   &mvccpb.KeyValue{Key: []byte(key), ModRevision: w.base + 1},
	})
}

// commit makes the transaction the current revision, if it changed anything.
func (w *writer) commit() {
	if len(w.events) == 0 {
		return
	}
	w.store.rev++
	w.log = append(w.log, revision{w.store.rev, w.events})
}
