package leasing

// clock is the keys that are owned, in a circle, with a hand that goes round
// when there are too many: it gives up the first that nobody has read since it
// came by last. It belongs to the cache and is guarded by cache.mu.
//
// A key that was read only once, by a scan, say, is given up before one that is
// read again and again.
type clock struct {
	ring []*entry
	hand int
}

func (c *clock) add(e *entry) {
	c.ring = append(c.ring, e)
	e.slot = int32(len(c.ring))
}

// remove takes e out, if it is there. The last one takes its place.
func (c *clock) remove(e *entry) {
	if e.slot == 0 {
		return
	}
	last := c.ring[len(c.ring)-1]
	c.ring[e.slot-1], last.slot = last, e.slot
	c.ring[len(c.ring)-1] = nil
	c.ring = c.ring[:len(c.ring)-1]
	e.slot = 0
}

// victim returns the key to give up next, other than keep, or nil if there is
// none: a key that is being written is not, as it will be wanted.
func (c *clock) victim(keep *entry) *entry {
	for range 2 * len(c.ring) {
		if c.hand >= len(c.ring) {
			c.hand = 0
		}
		e := c.ring[c.hand]
		c.hand++
		if e == keep || e.writes > 0 || e.wasRead() {
			continue
		}
		return e
	}
	return nil
}
