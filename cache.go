package leasing

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

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

	entries *index
	limit   int // how many keys may be owned

	// mu guards everything below and the entries, but for their atomic fields.
	// Nothing that blocks happens under it: no I/O, no channel operation but
	// close, no log, no callback. Readers of published entries never take it.
	mu      sync.Mutex
	barring []*write // unsettled writes that bar ranges from being claimed
	aging   []*entry // idle entries, kept for their rest
	owning  clock    // owned entries
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
	key  string
	hash uint64
	next atomic.Pointer[entry] // the index's chain

	// snap is what readers may be told. It is nil unless the key is owned and
	// no write of ours to it is unsettled.
	//
	// Invariant: I1.
	snap  atomic.Pointer[snapshot]
	reads atomic.Uint32 // local reads under this grant, counted up to payoff; and recent

	state  state
	claim  *claim // claiming
	grant  int64  // owned, yielding; 0 while yielding if it was never told
	lease  *lease // the lease that a claim of ours hangs on or may do so
	writes int    // unsettled writes of ours that cover the key

	// While writes are unsettled: what will be published when the last of them
	// settles, and whether one of them could not be read back.
	known *snapshot
	lost  bool

	until   time.Time     // not to be claimed before: it rests
	foreign time.Time     // nor before this, unless somebody else's claim is seen to go
	rest    time.Duration // the latest rest
	aging   bool          // in cache.aging
	slot    int           // its place in cache.owning, from 1 on; 0 if it is not there
}

// snapshot is what etcd said of one key at revision rev. It never changes.
//
// Invariant: I4. It is made from a reply of etcd's, never computed.
type snapshot struct {
	lease   *lease // the claim's; the snapshot may be used while it is live
	rev     int64
	present bool
	create  int64
	mod     int64
	version int64
	value   []byte
}

func newSnapshot(kv *mvccpb.KeyValue, rev int64, l *lease) *snapshot {
	if kv == nil {
		return &snapshot{lease: l, rev: rev}
	}
	return &snapshot{
		lease: l, rev: rev, present: true,
		create: kv.CreateRevision, mod: kv.ModRevision, version: kv.Version, value: kv.Value,
	}
}

// claim is one attempt to claim a key. Its fields are guarded by cache.mu
// until done is closed and constant from then on.
type claim struct {
	key   string
	entry *entry
	done  chan struct{}

	sent  bool   // whoever joins now cannot share the reply
	lease *lease // set when sent

	// News that overtook the reply.
	spoiled bool  // the epoch has passed or a write of ours has covered the key
	created int64 // the grant of the latest claim of ours that was seen
	revoked int64 // the grant of the latest REVOKE
	deleted int64 // the revision of the latest DELETE

	// The reply: facts is what it said of the key; nil if there was none, or if
	// the key carries a lease, which a snapshot does not show.
	facts *snapshot
	hdr   *etcdserverpb.ResponseHeader
}

// yield is a claim that is to be deleted. The key has been forgotten already.
//
// Invariant: I7.
type yield struct {
	key   string
	grant int64  // 0 if it was never told: the claim is looked for first
	lease *lease // on which the claim hangs then
}

// write is the token of one write on its way, from begin to settle.
type write struct {
	points  []pin // one for each key written singly, in the order given to begin
	covered []pin // owned keys in ranges
	barred  []keyRange
}

// pin is a key under an unsettled write, as it was when that began.
type pin struct {
	entry *entry
	grant int64 // 0 if it was not owned
	ours  bool  // not owned, but a claim of ours may be there
}

const (
	// A grant under which so many reads were served locally has paid, if it was
	// not asked back before so many times the length of the rest before it.
	payoff      = 8
	payoffRests = 2

	// recent marks a count of reads: there was one since the clock came by.
	recent = 1 << 8

	restMin = 250 * time.Millisecond
	restMax = 8 * time.Second
	// foreignPause is how long a key that somebody else holds is read plainly,
	// unless its claim is seen to go before that.
	foreignPause = 2 * time.Second
	// deniedPause is the same for a key whose claim was refused.
	deniedPause = 10 * time.Second

	// maxAging bounds the idle entries that are kept for the sake of their rest.
	maxAging = 1 << 16
)

// newCache returns a cache that owns up to limit keys.
func newCache(limit int) *cache { return &cache{entries: newIndex(), limit: limit} }

// lookup returns what readers of key may be told, or nil. It takes no lock.
// The caller must check afterwards that the snapshot's lease is live.
//
// Invariant: I1.
func (c *cache) lookup(key string) *snapshot {
	e := c.entries.get(key)
	if e == nil {
		return nil
	}
	s := e.snap.Load()
	if s != nil {
		// Counts roughly and only up to payoff, so that a hot key's readers do
		// not write to memory that they share.
		if n := e.reads.Load(); n != payoff|recent {
			e.reads.Store(min(n&^recent+1, payoff) | recent)
		}
	}
	return s
}

// wasRead reports whether the key was read since it was asked last.
func (e *entry) wasRead() bool {
	n := e.reads.Load()
	e.reads.Store(n &^ recent)
	return n&recent != 0
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

// tidyLocked removes e from the index if it says nothing, or lets it age if it
// says only when its key may be claimed again.
func (c *cache) tidyLocked(e *entry) {
	switch {
	case e.state != idle || e.writes > 0 || e.aging:
	case e.until.IsZero() && e.foreign.IsZero():
		c.entries.remove(e)
	default:
		e.aging = true
		c.aging = append(c.aging, e)
	}
}

// ageLocked drops idle entries that have rested, from the oldest on. An entry
// outlives its rest, so that the next rest can grow from it.
func (c *cache) ageLocked(now time.Time) {
	for range 4 {
		if len(c.aging) == 0 {
			return
		}
		e := c.aging[0]
		if len(c.aging) <= maxAging && (now.Before(e.until.Add(restMax)) || now.Before(e.foreign)) {
			return
		}
		c.aging = c.aging[1:]
		e.aging = false
		if e.state == idle && e.writes == 0 {
			c.entries.remove(e)
		}
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

// restLocked starts the rest of a key that was asked back. The rest of a key of
// ours doubles while ownership does not pay; any other rests for a while. To
// pay, it must have been read, and not have been asked back soon after its rest:
// else readers who take it at once would starve a writer who needs longer than
// that rest. For the same reason it doubles if another who took it was asked so
// soon: with many readers, the writer would have to wait for each in turn.
func (c *cache) restLocked(e *entry, wasOurs bool, now time.Time) {
	switch {
	case !wasOurs && now.Sub(e.until) >= payoffRests*e.rest:
		e.rest = max(e.rest, restMin)
	case !wasOurs && now.Before(e.until): // it rests as it is
	case e.reads.Load()&^recent >= payoff && now.Sub(e.until) >= payoffRests*e.rest:
		e.rest = restMin
	default:
		e.rest = min(max(2*e.rest, restMin), restMax)
	}
	e.reads.Store(0)
	e.until = later(e.until, now.Add(e.rest))
	c.tidyLocked(e)
	c.ageLocked(now)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// claimableLocked reports whether the key of e may be claimed at now.
func (c *cache) claimableLocked(e *entry, now time.Time) bool {
	return e.state == idle && e.writes == 0 && !now.Before(e.until) && !now.Before(e.foreign)
}

// join returns the claim under way on key, beginning one if need be. It is nil
// if key is not to be claimed now. The caller that begins it has to see to it
// that it is sent and settled; one that is told not to share its reply waits
// for it and looks again.
//
// Invariant: I8. A reader that joins a claim after it was sent cannot share
// the reply: what it says may be older than the reader's call.
func (c *cache) join(key string, now time.Time) (cl *claim, begun, share bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries.get(key); e != nil {
		if e.state == claiming {
			return e.claim, false, !e.claim.sent
		}
		if !c.claimableLocked(e, now) {
			return nil, false, false
		}
	}
	for _, w := range c.barring {
		if contained(key, w.barred) {
			return nil, false, false
		}
	}
	e := c.entryLocked(key)
	e.state = claiming
	e.claim = &claim{key: key, entry: e, done: make(chan struct{})}
	return e.claim, true, true
}

// send marks claims as sent, under a lease that has room for them.
func (c *cache) send(claims []*claim, l *lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range claims {
		cl.sent, cl.lease = true, l
		cl.entry.lease = l
		l.claims++
	}
}

// room reports how many more claims may hang on l, if limit is the most.
func (c *cache) room(l *lease, limit int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return limit - l.claims
}

// claimReply is the answer to a claim.
type claimReply struct {
	outcome outcome // applied: the key is ours
	hdr     *etcdserverpb.ResponseHeader
	kv      *mvccpb.KeyValue // the key; nil if it does not exist
	other   *claimRecord     // refused: the claim in the way, if there is one
	ours    bool             // other hangs on a lease of ours
	denied  bool             // etcd gave an error
}

// settleClaim ends a claim with its reply and wakes those who wait for it. It
// returns the claims to be deleted.
//
// Invariant: I9. This is the only place where a key becomes owned.
func (c *cache) settleClaim(cl *claim, r claimReply, now time.Time) (out []yield) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(cl.done)
	e := cl.entry
	e.claim = nil
	c.observe(r.hdr) // before those who wait return with it
	if r.hdr != nil {
		cl.hdr = r.hdr
		if r.kv.GetLease() == 0 {
			cl.facts = newSnapshot(r.kv, r.hdr.Revision, cl.lease)
		}
	}
	switch {
	case r.outcome == applied:
		return c.settleClaimedLocked(cl, r, now)
	case r.outcome == unknown && cl.sent:
		// Invariant: I6. Our claim may be there, or come yet. It is deleted,
		// confirmed; should it come later, the watch tells.
		e.state, e.grant = yielding, 0
		return []yield{{key: cl.key, lease: cl.lease}}
	}
	switch {
	case r.other != nil && r.ours:
		// Invariant: I9. A claim of ours that was found, not granted.
		c.idleLocked(e)
		return c.disownLocked(r.other.key, r.other.grant)
	case r.other != nil:
		e.foreign = now.Add(foreignPause)
	case r.denied, r.hdr != nil: // refused; or the key carries a lease of its own
		e.until = later(e.until, now.Add(deniedPause))
	}
	c.idleLocked(e)
	if cl.created > cl.deleted {
		// Invariant: I9. An earlier claim, given up for lost, came late.
		out = c.disownLocked(cl.key, cl.created)
	}
	c.ageLocked(now)
	return out
}

func (c *cache) settleClaimedLocked(cl *claim, r claimReply, now time.Time) []yield {
	e, grant := cl.entry, r.hdr.Revision
	// Invariant: I8. The reply installs nothing if its grant has ended, if the
	// key was asked back, or if its epoch has passed while it was under way.
	switch {
	case cl.deleted > grant:
		c.idleLocked(e)
		return nil
	case cl.spoiled, cl.revoked >= grant, !cl.lease.live(now):
		e.state, e.grant = owned, grant
		return []yield{c.forgetLocked(e)}
	}
	e.state, e.grant = owned, grant
	e.reads.Store(0)
	e.snap.Store(cl.facts)
	c.owning.add(e)
	return c.evictLocked(e)
}

// evictLocked gives up keys while too many are owned, other than keep.
func (c *cache) evictLocked(keep *entry) (out []yield) {
	for len(c.owning.ring) > c.limit {
		e := c.owning.victim(keep)
		if e == nil {
			return out
		}
		out = append(out, c.forgetLocked(e))
	}
	return out
}

// disownLocked answers for a claim of ours that is not remembered.
func (c *cache) disownLocked(key string, grant int64) []yield {
	e := c.entryLocked(key)
	if e.state == yielding && e.grant == grant {
		return nil // on its way
	}
	if e.state == idle {
		e.state, e.grant = yielding, grant
	}
	return []yield{{key: key, grant: grant}}
}

// begin opens a write of ours to points, each named once, and to ranges. Until
// it is settled nothing that it covers is served from memory or claimed, nor is
// anything in the barred ranges claimed, which hold the ranges. If a
// claim of ours is under way on a point, it opens nothing and returns that
// claim: the write is to wait for it. If it is impatient, the claim is spoiled
// instead, and yielded as soon as it is seen.
func (c *cache) begin(points []string, ranges, barred []keyRange, impatient bool) (*write, *claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range points {
		if e := c.entries.get(k); e != nil && e.state == claiming {
			if !impatient {
				return nil, e.claim
			}
			e.claim.spoiled = true
		}
	}
	w := &write{points: make([]pin, 0, len(points)), barred: barred}
	for _, k := range points {
		w.points = append(w.points, pinLocked(c.entryLocked(k)))
	}
	if len(barred) > 0 {
		c.barring = append(c.barring, w)
	}
	if len(ranges) > 0 {
		c.entries.each(func(e *entry) {
			switch {
			case !contained(e.key, ranges):
			case e.state == claiming:
				e.claim.spoiled = true
			case e.state == owned:
				w.covered = append(w.covered, pinLocked(e))
			}
		})
	}
	return w, nil
}

func pinLocked(e *entry) pin {
	if e.writes == 0 {
		e.known, e.lost = e.snap.Load(), false
	}
	e.snap.Store(nil)
	e.writes++
	p := pin{entry: e, ours: e.state == yielding || e.state == claiming}
	if e.state == owned {
		p.grant = e.grant
	}
	return p
}

// settlement is what became of a write.
type settlement struct {
	outcome outcome
	hdr     *etcdserverpb.ResponseHeader // of the reply; nil if there was none

	// One for each point of the write, in order, or none at all.
	read   []readBack     // applied
	claims []*claimRecord // refused: its claim, nil if there is none
}

// readBack is a key as it was after a write, if it was read.
type readBack struct {
	done bool
	kv   *mvccpb.KeyValue // nil if it does not exist
}

// settle closes a write and returns the claims to be deleted.
func (c *cache) settle(w *write, s settlement) (out []yield) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Before anything of it is published, so that no reader is told of an
	// older revision after it. What it covers is not published now.
	c.observe(s.hdr)
	for i, p := range w.points {
		if p.owns() {
			switch {
			case s.outcome == applied && i < len(s.read) && s.read[i].done:
				p.entry.learn(s.read[i].kv, s.hdr.Revision)
			case s.outcome == applied:
				p.entry.lost = true
			case s.outcome == unknown:
				// Invariant: I6. A late write finds its grant gone.
				out = append(out, c.forgetLocked(p.entry))
			case i < len(s.claims) && (s.claims[i] == nil || s.claims[i].grant != p.grant):
				// The guard failed because the claim is no longer there.
				c.dropLocked(p.entry)
			}
		}
		out = append(out, c.unpinLocked(p)...)
	}
	for _, p := range w.covered {
		if p.owns() && s.outcome != refused {
			// Invariants: I4, I6. It was not read back, or may yet be written.
			out = append(out, c.forgetLocked(p.entry))
		}
		out = append(out, c.unpinLocked(p)...)
	}
	if len(w.barred) > 0 {
		c.barring = slices.DeleteFunc(c.barring, func(o *write) bool { return o == w })
	}
	return out
}

// owns reports whether the key is still owned under the grant of the pin.
func (p pin) owns() bool {
	return p.grant != 0 && p.entry.state == owned && p.entry.grant == p.grant
}

// learn takes in a read-back. The one of the highest revision counts. A key
// that comes back with a lease gets a snapshot without one, which is never
// published: the key can vanish without our consent, unless a later write of
// ours takes the lease off again.
//
// Invariant: I4.
func (e *entry) learn(kv *mvccpb.KeyValue, rev int64) {
	if e.known == nil || rev < e.known.rev {
		return
	}
	l := e.lease
	if kv.GetLease() != 0 {
		l = nil
	}
	e.known = newSnapshot(kv, rev, l)
}

// unpinLocked takes one write off the entry. The last one publishes what is
// known then, or yields the key.
func (c *cache) unpinLocked(p pin) (out []yield) {
	e := p.entry
	e.writes--
	if e.writes > 0 {
		return nil
	}
	if e.state != owned {
		c.tidyLocked(e)
		return nil
	}
	known := e.known
	e.known = nil
	if e.lost || known == nil || known.lease == nil {
		return []yield{c.forgetLocked(e)}
	}
	e.snap.Store(known)
	return c.evictLocked(e)
}

// dropLocked forgets a key whose claim is known to be gone.
func (c *cache) dropLocked(e *entry) {
	if e.state == owned || e.state == yielding {
		c.idleLocked(e)
	}
}

// yielded confirms that the claim of y is gone.
func (c *cache) yielded(y yield) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries.get(y.key); e != nil && e.state == yielding && e.grant == y.grant {
		c.idleLocked(e)
	}
}

// found takes in that the claim of y is there, under the grant that had not
// been told, and returns what has to be deleted then.
func (c *cache) found(y yield, grant int64) []yield {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries.get(y.key); e != nil && e.state == yielding && e.grant == 0 {
		e.grant = grant
	}
	return []yield{{key: y.key, grant: grant}}
}

// revoked takes in that the claim r was asked back. If it is ours, the claim
// has to be deleted, remembered or not. One that bears our grant is ours even
// if somebody's hand has taken it off its lease.
//
// Invariant: I9.
func (c *cache) revoked(r claimRecord, ours bool, now time.Time) (out []yield) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entryLocked(r.key)
	ours = ours || e.state == owned && e.grant == r.grant
	switch {
	case !ours:
		// A writer waits for it; readers here let it through. A claim of ours
		// that is older must have ended.
		if e.state == claiming {
			e.claim.deleted = max(e.claim.deleted, r.grant)
		}
		if e.state == owned && e.grant < r.grant {
			c.dropLocked(e)
			e = c.entryLocked(r.key)
		}
		c.restLocked(e, false, now)
	case e.state == claiming:
		// It has overtaken the reply of the claim, or is older than the claim.
		e.claim.revoked = max(e.claim.revoked, r.grant)
		out = append(out, yield{key: r.key, grant: r.grant})
		c.restLocked(e, false, now)
	case e.state == owned && e.grant == r.grant:
		out = append(out, c.forgetLocked(e))
		c.restLocked(e, true, now)
	case e.state == owned && e.grant > r.grant:
		// Old news of an earlier grant.
	default:
		if e.state == owned {
			c.dropLocked(e) // our grant must have ended before that claim was made
		}
		out = c.disownLocked(r.key, r.grant)
		c.restLocked(c.entryLocked(r.key), false, now)
	}
	return out
}

// created takes in that a claim of ours was made. Unless a reply has told or
// will tell, it is a claim whose reply was lost.
//
// Invariant: I9.
func (c *cache) created(r claimRecord) []yield {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries.get(r.key)
	switch {
	case e == nil:
	case e.state == claiming && e.claim.spoiled:
		return []yield{{key: r.key, grant: r.grant}}
	case e.state == claiming:
		e.claim.created = max(e.claim.created, r.grant)
		return nil
	case e.state == owned && e.grant >= r.grant:
		return nil
	case e.state == owned:
		c.dropLocked(e) // our grant must have ended before that claim was made
	}
	return c.disownLocked(r.key, r.grant)
}

// deleted takes in that the claim of key was deleted at revision rev. If we
// relied on it, it returns the lease on which it hung.
//
// Invariant: I9. A DELETE counts above the grant only.
func (c *cache) deleted(key string, rev int64) (lost *lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries.get(key)
	if e == nil {
		return nil
	}
	switch {
	case e.state == claiming:
		e.claim.deleted = max(e.claim.deleted, rev)
	case e.state == owned && e.grant < rev:
		lost = e.lease
		c.dropLocked(e)
	case !e.foreign.IsZero():
		e.foreign = time.Time{}
		c.tidyLocked(e)
	}
	return lost
}

// reconcile takes in a listing of all claims at revision rev: grants that it
// lacks are dropped, claims of ours that it has and we do not are yielded, and
// REVOKEs in it are answered.
//
// Invariant: I14.
func (c *cache) reconcile(listing []claimRecord, rev int64, ours func(claimRecord) bool, now time.Time) (out []yield) {
	listed := make(map[string]int64, len(listing))
	for _, r := range listing {
		listed[r.key] = r.grant
	}
	c.mu.Lock()
	c.entries.each(func(e *entry) {
		switch {
		case e.state == claiming:
			e.claim.spoiled = true
		case e.state == owned && e.grant <= rev && listed[e.key] != e.grant:
			c.dropLocked(e)
		}
	})
	c.mu.Unlock()
	for _, r := range listing {
		switch {
		case r.revoked:
			out = append(out, c.revoked(r, ours(r), now)...)
		case ours(r):
			out = append(out, c.created(r)...)
		}
	}
	return out
}

// dropLease forgets every key whose claim hangs on l, which is over; with a
// nil l, every key. The claims go with their leases.
func (c *cache) dropLease(l *lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries.each(func(e *entry) {
		switch {
		case l != nil && e.lease != l:
		case e.state == claiming:
			e.claim.spoiled = true
		case e.state == owned:
			c.dropLocked(e)
		}
	})
}
