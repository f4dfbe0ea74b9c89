package leasing

import "time"

// What callers ask of many keys at once.

// wanted is what came of keys that somebody wants to own. Those that are another's,
// that rest, or that are being written are in none of these.
type wanted struct {
	begun  []*claim // to be sent and settled by the caller
	joined []*claim // under way already
	owned  []string
	soon   []string // being given back: to be looked at again once that is confirmed
	left   []string // not looked at: as many keys are owned, or about to be, as may be
}

// want begins to claim keys. It displaces nothing, not even when it turns out how much
// they take, and counts no reads: see join.
func (c *cache) want(keys []string, now time.Time) (w wanted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, k := range keys {
		e := c.entries.get(k)
		switch {
		case e != nil && e.state == owned:
			w.owned = append(w.owned, k)
		case e != nil && e.state == claiming:
			w.joined = append(w.joined, e.claim)
		case e != nil && e.state == yielding:
			w.soon = append(w.soon, k)
		case !c.claimableLocked(k, e, now):
		case c.fullLocked():
			w.left = keys[i:]
			return w
		default:
			cl := c.claimLocked(k)
			cl.modest = true
			w.begun = append(w.begun, cl)
		}
	}
	return w
}

// released is what came of keys that are to be given back. The others have no
// claim of ours.
type released struct {
	yields  []yield  // to be sent by the caller
	leaving []yield  // these, and those that are on their way already
	claims  []*claim // under way: whatever the reply, the key is given back
}

// release forgets keys, so that they are given back. None of them rests.
//
// Invariant: I7.
func (c *cache) release(keys []string) (r released) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		e := c.entries.get(k)
		switch {
		case e == nil || e.state == idle:
		case e.state == claiming:
			e.claim.spoiled = true
			r.claims = append(r.claims, e.claim)
		case e.state == yielding:
			r.leaving = append(r.leaving, yield{key: k, grant: e.grant})
		default:
			y := c.forgetLocked(e)
			r.yields, r.leaving = append(r.yields, y), append(r.leaving, y)
		}
	}
	return r
}

// leaving returns those of ys whose claims are not confirmed to be gone. Without a
// grant, any claim of ours on the key is meant that is being yielded.
func (c *cache) leaving(ys []yield) (left []yield) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, y := range ys {
		e := c.entries.get(y.key)
		if e != nil && e.state == yielding && (e.grant == y.grant || y.grant == 0) {
			left = append(left, y)
		}
	}
	return left
}

// peek is lookup for whoever does not read: it is not counted.
//
// Invariant: I1.
func (c *cache) peek(key string) *snapshot {
	if e := c.entries.get(key); e != nil {
		return e.snap.Load()
	}
	return nil
}
