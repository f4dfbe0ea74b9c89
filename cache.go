package leasing

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// cache is what this KV owns and knows: a passive state machine. It does no
// I/O, starts no goroutine, calls nobody back and reads no clock; whoever
// calls it gets told what has to be sent. It is the only place that touches an
// entry.
//
// DESIGN.md has the table of its transitions.
type cache struct {
	// seen is the highest store revision that this KV has been told of.
	//
	// Invariant: I10. It is raised only after the news that carried the
	// revision has been applied here, and readers load it before an entry. So
	// an entry that is published then has not changed up to it.
	seen  atomic.Int64
	ident atomic.Pointer[etcdserverpb.ResponseHeader] // the latest reply's other header fields

	entries  *index
	limit    int      // how many keys may be owned
	maxBytes int64    // how much they may take; 0 is no bound
	count    counters // for Stats; anybody counts here
	events   *events  // whom to tell; nil if nobody wants to know

	// mu guards everything below and the entries, but for their atomic fields.
	// Nothing that blocks happens under it: no I/O, no channel operation but
	// close, no log, no callback. Readers of published entries never take it.
	mu       sync.Mutex
	barring  []*write      // unsettled writes that bar ranges from being claimed
	aging    []*entry      // idle entries, kept for their rest
	owning   clock         // owned entries
	underway int           // claims under way
	typical  int64         // how much a key takes that comes, as the latest did
	misses   *misses       // nil if the first read of a key claims it
	usual    time.Duration // how long a key rests that is asked back for the first time
	judged   time.Time     // when that was changed last
	passes   passes        // in search of idle keys
}

// state is what the cache knows of the claim of one key.
type state uint8

const (
	idle     state = iota // no claim of ours, and none under way
	claiming              // entry.claim is under way
	owned                 // our claim is there, under entry.grant
	yielding              // forgotten; its claim is to be gone, confirmed
)

// entry is one key. Its state is changed by the cache alone, under cache.mu.
type entry struct {
	// What readers look at comes first, in one cache line.

	key   string
	hash  uint32
	reads atomic.Uint32         // local reads, counted in three ways: see paying
	next  atomic.Pointer[entry] // the index's chain

	// snap is what readers may be told. It is nil unless the key is owned and
	// no write of ours to it is unsettled.
	//
	// Invariant: I1.
	snap  atomic.Pointer[snapshot]
	small [smallKey]byte // holds the key, if there is room for it

	bytes uint32 // what it takes, as cache.owning counts it
	state state
	lost  bool  // one of the unsettled writes could not be read back
	aging bool  // in cache.aging
	pass  uint8 // which of cache.passes found last that it was read

	claim  *claim    // claiming
	grant  int64     // owned, yielding; 0 while yielding if it was never told
	lease  *lease    // the lease that a claim of ours hangs on or may do so
	known  *snapshot // what will be published when the last unsettled write settles
	heard  int64     // the latest revision at which the watch on data saw it written, while writes of ours were unsettled
	writes int32     // unsettled writes of ours that cover the key
	slot   int32     // its place in cache.owning: in the ring, from 1 on, or outside, from -1 down; 0 if it is not there
	pause  *pause    // nil if it may be claimed at any time
}

// smallKey is how long a key may be to be in the entry itself: its readers look in one
// place less.
const smallKey = 24

// newEntry returns the entry of a key.
func newEntry(key string, hash uint32) *entry {
	e := &entry{hash: hash}
	if len(key) <= len(e.small) {
		e.key = unsafe.String(&e.small[0], copy(e.small[:], key)) // which is never written again
	} else {
		e.key = strings.Clone(key) // it may be part of something large
	}
	return e
}

// snapshot is what etcd said of one key at revision rev. It never changes.
//
// Invariant: I4. It is made from a reply of etcd's, never computed.
type snapshot struct {
	lease   *lease // the claim's; the snapshot may be used while it is live
	rev     int64
	create  int64
	mod     int64
	version int64 // 0 if the key does not exist
	value   []byte

	small [smallValue]byte // holds the value, if there is room for it
}

// smallValue is how long a value may be to be in the snapshot itself: its
// readers look in one place less.
const smallValue = 32

func (s *snapshot) present() bool { return s.version > 0 }

func newSnapshot(kv *mvccpb.KeyValue, rev int64, l *lease) *snapshot {
	if kv == nil {
		return &snapshot{lease: l, rev: rev}
	}
	s := &snapshot{
		lease: l, rev: rev,
		create: kv.CreateRevision, mod: kv.ModRevision, version: kv.Version, value: kv.Value,
	}
	if len(s.value) <= len(s.small) {
		s.value = append(s.small[:0], s.value...)
	}
	return s
}

// yield is a claim that is to be deleted. The key has been forgotten already.
//
// Invariant: I7.
type yield struct {
	key   string
	grant int64  // 0 if it was never told: the claim is looked for first
	lease *lease // on which the claim hangs then

	stranger bool // as a stranger has written the key while it was owned
}

// newCache returns a cache that owns up to limit keys.
func newCache(limit int) *cache {
	return &cache{entries: newIndex(), limit: limit, usual: restMin, typical: keyOverhead}
}

// lookup returns what readers of key may be told, or nil, and counts them. It takes no
// lock. The caller must check afterwards that the snapshot's lease is live.
//
// Invariant: I1.
func (c *cache) lookup(key string) *snapshot {
	e := c.entries.get(key)
	if e == nil {
		return nil
	}
	s := e.snap.Load()
	if s != nil {
		e.countRead()
	}
	return s
}

// sight is what lookup returns, with a way to tell whether it has changed.
type sight struct {
	*snapshot
	of *entry
}

// sight is lookup for a reader of several keys, which is not counted until it is known
// that all of them can be told; without a snapshot if there is nothing to tell.
func (c *cache) sight(key []byte) sight {
	if e := c.entries.getBytes(key); e != nil {
		return sight{e.snap.Load(), e}
	}
	return sight{}
}

// unchanged reports whether the key is still as it was seen. An entry that has
// left the index has no snapshot.
func (s sight) unchanged() bool { return s.of.snap.Load() == s.snapshot }

// countRead counts a reader, roughly and only so far, so that a hot key's readers do
// not write to memory that they share.
func (e *entry) countRead() {
	if n := e.reads.Load(); n != payoff|used|recent {
		if n&paying < payoff {
			n++
		}
		if n&used < used {
			n += oneUse
		}
		e.reads.Store(n | recent)
	}
}

// The parts of entry.reads. All but readers hold cache.mu when they change it.
const (
	paying = 1<<4 - 1 // reads under this grant, up to payoff

	oneUse  = 1 << 4 // reads since it came or came back, less what the clock takes off, up to maxUses
	maxUses = 7
	used    = maxUses * oneUse

	recent = 1 << 7 // there was one since the latest pass in search of idle keys
)

// uses is how much the key was read, for the clock.
func (e *entry) uses() uint32 { return e.reads.Load() & used / oneUse }

// lessUsed takes one off that. It yields to a reader that counts up just now.
func (e *entry) lessUsed() {
	if n := e.reads.Load(); n&used > 0 {
		e.reads.CompareAndSwap(n, n-oneUse)
	}
}

// observe raises the highest revision seen to that of h, whose news has been
// applied.
func (c *cache) observe(h *etcdserverpb.ResponseHeader) {
	if h == nil {
		return
	}
	if id := c.ident.Load(); h.MemberId != 0 &&
		(id == nil || id.ClusterId != h.ClusterId || id.MemberId != h.MemberId || id.RaftTerm != h.RaftTerm) {
		c.ident.Store(copyHeader(h))
	}
	for {
		old := c.seen.Load()
		if h.Revision <= old || c.seen.CompareAndSwap(old, h.Revision) {
			return
		}
	}
}

// entryLocked returns the entry of key, made if there is none.
func (c *cache) entryLocked(key string) *entry {
	if e := c.entries.get(key); e != nil {
		return e
	}
	return c.entries.add(key)
}

// idleLocked is the end of a claim of ours on e, whatever it was.
func (c *cache) idleLocked(e *entry) {
	e.snap.Store(nil)
	c.owning.remove(e)
	if e.lease != nil {
		e.lease.claims--
	}
	e.state, e.claim, e.grant, e.lease, e.known = idle, nil, 0, nil, nil
	c.tidyLocked(e)
}

// dropLocked forgets a key whose claim is known to be gone.
func (c *cache) dropLocked(e *entry) {
	was := e.state
	if was == owned || was == yielding {
		c.idleLocked(e)
	}
	if was == owned {
		c.count.lost.Add(1)
		c.events.key(KeyLost, e.key)
	}
}

// forgetLocked makes an owned key yielding.
//
// Invariant: I7. The entry is gone before the claim's deletion is sent.
func (c *cache) forgetLocked(e *entry) yield {
	e.snap.Store(nil)
	c.owning.remove(e)
	e.state, e.known = yielding, nil
	return yield{key: e.key, grant: e.grant}
}

// census returns how many keys are owned, and about how much they take.
func (c *cache) census() (keys int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owning.len(), c.owning.bytes
}
