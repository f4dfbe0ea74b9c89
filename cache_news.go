package leasing

import (
	"time"
)

// The news that the cache takes in: of claims, ours and others', and of leases.

// yielded confirms that the claim of y is gone, at revision rev at the latest, and
// whether it was there before. Of a claim that we have relied on, that makes no
// difference: the reply to an earlier yield of it was lost, or there were two.
func (c *cache) yielded(y yield, rev int64, there bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries.get(y.key); e != nil && e.state == yielding && e.grant == y.grant {
		if y.grant != 0 && (there || e.lease != nil) {
			c.gaveBackLocked(e)
		}
		e.freedLocked(rev)
		c.idleLocked(e)
	}
}

// gaveBackLocked tells that a claim of ours on e is gone, as we have given it back.
func (c *cache) gaveBackLocked(e *entry) {
	if e.key == "" {
		return // a beacon
	}
	c.count.yields.Add(1)
	c.events.key(KeyYielded, e.key)
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
		e.heldLocked(r, now)
		c.restLocked(e, false, now)
	case e.state == claiming:
		// It has overtaken the reply of the claim, which will tell, or is older than
		// the claim.
		e.claim.revoked = max(e.claim.revoked, r.grant)
		e.claim.leaving = e.claim.revoked
		out = append(out, yield{key: r.key, grant: r.grant})
		c.restLocked(e, false, now)
	case e.state == owned && e.grant == r.grant:
		out = append(out, c.forgetLocked(e))
		c.askedLocked(e, r.grant, now)
		c.restLocked(e, true, now)
	case e.state == owned && e.grant > r.grant:
		// Old news of an earlier grant.
	default:
		if e.state == owned {
			c.dropLocked(e) // our grant must have ended before that claim was made
		}
		out = c.disownLocked(r.key, r.grant)
		e = c.entryLocked(r.key)
		c.askedLocked(e, r.grant, now)
		c.restLocked(e, false, now)
	}
	return out
}

// askedLocked tells that somebody has asked for the key of e, once for each grant:
// after a gap in the watch it may be seen again.
func (c *cache) askedLocked(e *entry, grant int64, now time.Time) {
	p := e.pauseLocked(now)
	if grant <= p.asked {
		return
	}
	p.asked = grant
	c.count.revokesAnswered.Add(1)
	c.count.contended.note(e.key)
	c.events.key(KeyRevoked, e.key)
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
		e.claim.leaving = max(e.claim.leaving, r.grant)
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
	e.goneLocked(rev)
	switch {
	case e.state == claiming:
		e.claim.deleted = max(e.claim.deleted, rev)
	case e.state == owned && e.grant < rev:
		lost = e.lease
		c.dropLocked(e)
	case e.state == yielding && e.grant < rev:
		e.freedLocked(rev)
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
		if listed[e.key] == 0 {
			e.goneLocked(rev)
		}
	})
	c.mu.Unlock()
	for _, r := range listing {
		switch {
		case r.revoked:
			out = append(out, c.revoked(r, ours(r), now)...)
		case ours(r):
			out = append(out, c.created(r)...)
		default:
			c.taken(r, now)
		}
	}
	return out
}

// heard takes in that key was written at revision rev, as the watch on data says. If
// that was after what we know of an owned key, it was by a stranger, who did not ask for
// it, and the key is given up. While a write of ours is unsettled, or a claim under
// way, its reply will tell.
func (c *cache) heard(key string, rev int64, now time.Time) []yield {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries.get(key)
	switch {
	case e == nil:
	case e.state == claiming:
		e.claim.heard = max(e.claim.heard, rev)
	case e.state != owned:
	case !e.lease.live(now):
		c.dropLocked(e) // the claim may be gone, and another's the writer
	case e.writes > 0:
		e.heard = max(e.heard, rev)
	case rev > e.snap.Load().rev:
		y := c.strangerLocked(e)
		c.restLocked(e, true, now)
		return []yield{y}
	}
	return nil
}

// strangerLocked gives up an owned key that a stranger has written.
func (c *cache) strangerLocked(e *entry) yield {
	y := c.forgetLocked(e)
	y.stranger = true
	c.count.strangers.Add(1)
	c.events.key(KeyWritten, e.key)
	return y
}

// doubt gives up all keys in r: there may have been writes of strangers that nobody
// saw.
func (c *cache) doubt(r keyRange) (out []yield) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries.each(func(e *entry) {
		switch {
		case !r.contains(e.key):
		case e.state == claiming:
			e.claim.spoiled = true
		case e.state == owned:
			out = append(out, c.forgetLocked(e))
		}
	})
	return out
}

// dropLease forgets every key whose claim hangs on l, which is over. The claims go
// with their lease.
func (c *cache) dropLease(l *lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries.each(func(e *entry) {
		switch {
		case e.lease != l:
		case e.state == claiming:
			e.claim.spoiled = true
		case e.state == owned:
			c.dropLocked(e)
		}
	})
}

// dropAll forgets every key, as all leases are to be revoked. Each is lost, but for those
// of a session that ends: that is told of them all together.
func (c *cache) dropAll(ends bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries.each(func(e *entry) {
		switch {
		case e.state == claiming:
			e.claim.spoiled = true
		case e.state == owned && ends:
			c.idleLocked(e)
		case e.state == owned:
			c.dropLocked(e)
		}
	})
}
