package leasing

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Event is something that happened to a KV. See Config.OnEvent.
type Event struct {
	Kind EventKind
	Time time.Time // when the KV noticed
	Key  string    // of what concerns a key; else empty
	Why  string    // of what concerns the session: the reason, for people
}

// EventKind is what an Event is about.
type EventKind int

// What can happen. A key that is claimed is given up in one of these ways: it is evicted,
// revoked or lost, or a stranger has written it. What is not lost is yielded then. A key
// that is yielded and none of these was released by the application; or covered by a write
// of ours whose outcome is unknown, that did not read it back (the deletion of a range, or
// a large transaction), or that gave it a lease of its own; or a watch of Config.WatchData
// has begun anew. What is given up before the reply to its claim is there is not told to
// be claimed.
const (
	SessionValid     EventKind = iota + 1 // for the first time, keys can be owned
	SessionJeopardy                       // nothing can be owned, reads are sent to etcd; the KV tries to get over it
	SessionRecovered                      // keys can be owned again
	SessionLost                           // nothing is owned any more, nor will be: the KV was closed, or what bounds its life is over
	KeyClaimed                            // the key is ours
	KeyRevoked                            // somebody else has asked for the key
	KeyYielded                            // the claim of the key has been deleted
	KeyEvicted                            // the key is given up: there are too many, it is too large, or nobody reads it
	KeyLost                               // the claim of the key is gone, or goes with its lease, which is over or given up with the session; or somebody deleted it
	KeyWritten                            // a stranger has written the key while it was owned; see Config.WatchData
)

// String returns the kind in words.
func (k EventKind) String() string {
	names := [...]string{"session valid", "session in jeopardy", "session recovered", "session lost",
		"key claimed", "key revoked", "key yielded", "key evicted", "key lost", "key written by a stranger"}
	if k < 1 || int(k) > len(names) {
		return fmt.Sprintf("EventKind(%d)", int(k))
	}
	return names[k-1]
}

const (
	// maxEvents is how many events wait for the observer. More are lost, and counted.
	maxEvents = 4096
	// sessionEvents is how many of the session may wait besides. They come after those of
	// the keys that go with it, however many these are.
	sessionEvents = 64
)

// events are those that the observer has not been told of. A nil *events takes none.
type events struct {
	observer func(Event)
	lost     func() // counts one that is lost

	// mu guards the queue. It may be taken under any other lock; nothing is done
	// under it.
	mu      sync.Mutex
	waiting []Event
	taken   int           // how many more are about to be told
	more    chan struct{} // has room for one
}

func newEvents(observer func(Event), lost func()) *events {
	if observer == nil {
		return nil
	}
	return &events{observer: observer, lost: lost, more: make(chan struct{}, 1)}
}

// key tells of a key. That it is given up must be so already, for those who do not take
// the cache's lock as well: the observer may read the key at once.
func (es *events) key(kind EventKind, key string) {
	if es != nil {
		es.put(Event{Kind: kind, Key: strings.Clone(key)}) // it is a part of its entry, which would not go as long as somebody keeps it
	}
}

// session tells of the session.
func (es *events) session(kind EventKind, why string) {
	if es != nil {
		es.put(Event{Kind: kind, Why: why})
	}
}

// put queues an event. It never waits.
func (es *events) put(e Event) {
	e.Time = time.Now()
	es.mu.Lock()
	n, room := es.taken+len(es.waiting), maxEvents
	if e.Kind < KeyClaimed {
		room += sessionEvents
	}
	full := n >= room
	if !full {
		es.waiting = append(es.waiting, e)
	}
	es.mu.Unlock()
	if full {
		es.lost()
		return
	}
	select {
	case es.more <- struct{}{}:
	default:
	}
}

// take returns what is waiting. It counts as waiting until telling is called for it.
func (es *events) take() []Event {
	es.mu.Lock()
	defer es.mu.Unlock()
	out := es.waiting
	es.waiting, es.taken = nil, len(out)
	return out
}

// telling is called when the next of those that were taken does not wait any more.
func (es *events) telling() {
	es.mu.Lock()
	defer es.mu.Unlock()
	es.taken--
}

// deliver tells the observer of events until done is closed, and then of those that
// are waiting.
func (es *events) deliver(done <-chan struct{}) {
	for over := false; !over; {
		select {
		case <-es.more:
		case <-done:
			over = true
		}
		for _, e := range es.take() {
			es.telling()
			es.observer(e)
		}
	}
}
