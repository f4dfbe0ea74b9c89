package leasing

import (
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// The claims that the cache has under way.

// claim is one attempt to claim a key. Its fields are guarded by cache.mu
// until done is closed and constant from then on.
type claim struct {
	key   string
	entry *entry
	done  chan struct{}

	sent   bool   // whoever joins now cannot share the reply
	lease  *lease // set when sent
	modest bool   // the key is to be owned only if there is room for it

	// News that overtook the reply.
	spoiled bool  // the epoch has passed, a write of ours has covered the key, or it is to be given back
	created int64 // the grant of the latest claim of ours that was seen
	revoked int64 // the grant of the latest REVOKE
	leaving int64 // the grant of the latest claim of ours that is being given back already
	deleted int64 // the revision of the latest DELETE
	heard   int64 // the latest revision at which the watch on data saw the key written

	// The reply: facts is what it said of the key; nil if there was none, or if
	// the key carries a lease, which a snapshot does not show.
	facts *snapshot
	hdr   *etcdserverpb.ResponseHeader
}

// join returns the claim under way on key, beginning one if need be. It is nil
// if key is not to be claimed now, or was not read often enough. The caller that
// begins it has to see to it that it is sent and settled; one that is told not to
// share its reply waits for it and looks again.
//
// Invariant: I8. A reader that joins a claim after it was sent cannot share
// the reply: what it says may be older than the reader's call.
func (c *cache) join(key string, now time.Time) (cl *claim, begun, share bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries.get(key)
	if e != nil && e.state == claiming {
		return e.claim, false, !e.claim.sent
	}
	if !c.claimableLocked(key, e, now) || !c.misses.enough(key, now) {
		return nil, false, false
	}
	return c.claimLocked(key), true, true
}

// claimableLocked reports whether key, whose entry is e if it has one, may be
// claimed at now.
func (c *cache) claimableLocked(key string, e *entry, now time.Time) bool {
	if e != nil && !e.claimableLocked(now) {
		return false
	}
	for _, w := range c.barring {
		if contained(key, w.barred) {
			return false
		}
	}
	return true
}

// claimLocked begins a claim of key, which must be claimable.
func (c *cache) claimLocked(key string) *claim {
	e := c.entryLocked(key)
	e.state = claiming
	e.claim = &claim{key: key, entry: e, done: make(chan struct{})}
	c.underway++
	return e.claim
}

// send marks claims as sent under a lease, as many as it has room for if limit is
// the most, and returns how many.
func (c *cache) send(claims []*claim, l *lease, limit int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := max(0, min(len(claims), limit-l.claims))
	for _, cl := range claims[:n] {
		cl.sent, cl.lease = true, l
		cl.entry.lease = l
	}
	l.claims += n
	return n
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
	c.count.claim(cl, r)
	c.ageLocked(now) // whatever becomes of this one, its key may have to be remembered
	e := cl.entry
	e.claim = nil
	c.underway--
	c.observe(r.hdr) // before those who wait return with it
	if r.hdr != nil {
		cl.hdr = r.hdr
		if r.kv.GetLease() == 0 {
			cl.facts = newSnapshot(r.kv, r.hdr.Revision, cl.lease)
		}
	}
	if cl.revoked > 0 && (r.outcome != applied || cl.revoked >= r.hdr.Revision) { // else it is old news
		c.askedLocked(e, cl.revoked, now)
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
	case r.other != nil && cl.deleted > r.other.grant: // it is gone since
	case r.other != nil:
		e.heldLocked(*r.other, now)
	case r.denied, r.hdr != nil: // refused; or the key carries a lease of its own
		e.deniedLocked(now)
	}
	c.idleLocked(e)
	if cl.created > cl.deleted {
		// Invariant: I9. An earlier claim, given up for lost, came late.
		out = c.disownLocked(cl.key, cl.created)
	}
	return out
}

func (c *cache) settleClaimedLocked(cl *claim, r claimReply, now time.Time) []yield {
	e, grant := cl.entry, r.hdr.Revision
	e.state, e.grant = owned, grant
	// Invariant: I8. The reply installs nothing if its grant has ended, if the
	// key was asked back, or if its epoch has passed while it was under way.
	switch {
	case cl.deleted > grant:
		if cl.leaving >= grant {
			c.gaveBackLocked(e)
		}
		c.idleLocked(e)
		return nil
	case cl.spoiled, cl.revoked >= grant, !cl.lease.live(now):
		return []yield{c.forgetLocked(e)}
	case cl.heard > grant:
		return []yield{c.strangerLocked(e)}
	}
	e.goneLocked(grant)
	c.events.key(KeyClaimed, e.key)
	bytes := takes(e.key, cl.facts)
	if !c.keeps(bytes) {
		// Its readers have it from the claim. Not every read of it is to be one.
		e.deniedLocked(now)
		return []yield{c.crowdOutLocked(e)}
	}
	c.typicalLocked(bytes)
	if cl.modest && !c.roomLocked(bytes) {
		return []yield{c.crowdOutLocked(e)}
	}
	e.reads.Store(0)
	e.pass = c.passes.latest
	c.owning.add(e, bytes)
	e.snap.Store(cl.facts)
	return c.evictLocked(e)
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
