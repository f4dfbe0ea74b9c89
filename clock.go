package leasing

import "slices"

// clock is the keys that are owned, and decides which to give up when there are
// too many. It belongs to the cache and is guarded by cache.mu.
//
// A hand goes round the keys. Of the few that it comes by, the one that was read
// least goes. Reads are counted up to maxUses, and every so many turns the hand
// takes one off each count, so that what was read a lot long ago can go, too.
//
// A key that comes has no count yet, so the latest wait outside the ring. The
// oldest of them goes unless it was read more than the least of a few in the
// ring: a scan of many keys drives out nothing but itself. A key that has gone
// leaves its count, and takes it up again if it comes back soon, as a key does that
// is read now and then.
type clock struct {
	bytes int64 // what the keys take

	young []*entry // those that wait outside, from first on, the oldest first; nil where one has left
	first int
	waits int // how many they are

	ring  []*entry
	hand  int
	turns uint
	past  []past // a power of two of them, or none
}

// past is what is remembered of a key that was given up: its count, as it was
// after so many agings. Others can take its place at any time.
type past struct {
	tag  uint16 // of the key's hash, odd; 0 if there is none
	uses uint8
	age  uint8
}

const (
	// Chosen by hitratio_test.go's traces: with a longer memory, more is hit as
	// long as the same keys are popular, and less after that changes.
	clockSample = 8 // keys that the hand looks at to find one to give up
	agingTurns  = 8 // the hand takes one off each count in one turn of so many
	youngShare  = 100

	minPast  = 64
	minYoung = 64 // empty slots in young that do not matter
)

func (c *clock) len() int { return len(c.ring) + c.waits }

// add takes e in, which has not been read since it came.
func (c *clock) add(e *entry, bytes uint32) {
	for c.waits > max(1, c.len()/youngShare) {
		c.admit(c.oldest())
	}
	if uses := c.recall(e.hash); uses > 0 {
		e.reads.Store(uses * oneUse)
	}
	if len(c.young) >= 2*c.waits+minYoung {
		c.compact()
	}
	c.young = append(c.young, e)
	e.slot = -int32(len(c.young))
	c.waits++
	c.resize(e, bytes)
}

// remove takes e out, if it is there.
func (c *clock) remove(e *entry) {
	switch {
	case e.slot == 0:
		return
	case e.slot < 0:
		c.young[-e.slot-1] = nil
		c.waits--
	default: // the last one takes its place
		last := c.ring[len(c.ring)-1]
		c.ring[e.slot-1], last.slot = last, e.slot
		c.ring[len(c.ring)-1] = nil
		c.ring = c.ring[:len(c.ring)-1]
	}
	e.slot = 0
	c.resize(e, 0)
}

// resize notes how many bytes e takes.
func (c *clock) resize(e *entry, bytes uint32) {
	c.bytes += int64(bytes) - int64(e.bytes)
	e.bytes = bytes
}

// admit moves e from outside into the ring.
func (c *clock) admit(e *entry) {
	c.young[-e.slot-1] = nil
	c.waits--
	c.ring = append(c.ring, e)
	e.slot = int32(len(c.ring))
}

// oldest returns the one that has waited longest, or nil.
func (c *clock) oldest() *entry {
	for c.first < len(c.young) && c.young[c.first] == nil {
		c.first++
	}
	if c.first == len(c.young) {
		return nil
	}
	return c.young[c.first]
}

// compact takes the empty slots out of young. It is called when half of them are, or
// more, so that it costs little for each key that comes.
func (c *clock) compact() {
	c.young, c.first = slices.DeleteFunc(c.young, func(e *entry) bool { return e == nil }), 0
	for i, e := range c.young {
		e.slot = -int32(i + 1)
	}
}

// victim returns the key to give up next, other than keep, or nil if there is
// none: a key that is being written is not, as it will be wanted.
func (c *clock) victim(keep *entry) *entry {
	free := func(e *entry) bool { return e != nil && e != keep && e.writes == 0 }
	var v *entry
	least := uint32(maxUses + 1)
	comer := c.oldest()
	if free(comer) {
		v, least = comer, comer.uses()
	}
	for seen, left := 0, len(c.ring); seen < clockSample && left > 0; left-- {
		e := c.next()
		if !free(e) {
			continue
		}
		if n := e.uses(); n < least {
			v, least = e, n
		}
		if seen++; least == 0 {
			break
		}
	}
	if v == nil { // the ring is all in use, or empty
		for _, e := range c.young[c.first:] {
			if free(e) {
				return e
			}
		}
		return nil
	}
	if v != comer && free(comer) {
		c.admit(comer)
	}
	c.remember(v)
	return v
}

// next moves the hand on by one.
func (c *clock) next() *entry {
	if c.hand >= len(c.ring) {
		c.hand = 0
		c.turns++
	}
	e := c.ring[c.hand]
	c.hand++
	if c.turns%agingTurns == 0 {
		e.lessUsed()
	}
	return e
}

// agings is how often each count has had one taken off.
func (c *clock) agings() uint8 { return uint8(c.turns / agingTurns) }

// remember notes the count of e, which is given up.
func (c *clock) remember(e *entry) {
	if len(c.past) < 2*c.len() {
		c.growPast()
	}
	*c.pastOf(e.hash) = past{tag: tagOf(e.hash), uses: uint8(e.uses()), age: c.agings()}
}

// recall returns what the count of a key is that comes, counting what makes it
// come back.
func (c *clock) recall(hash uint32) uint32 {
	if len(c.past) == 0 {
		return 0
	}
	p := c.pastOf(hash)
	if p.tag != tagOf(hash) {
		return 0
	}
	uses := max(0, int(p.uses)-int(c.agings()-p.age)) + 1
	*p = past{}
	return uint32(min(uses, maxUses))
}

func (c *clock) pastOf(hash uint32) *past { return &c.past[hash&uint32(len(c.past)-1)] }

func tagOf(hash uint32) uint16 { return uint16(hash>>16) | 1 }

// growPast doubles what can be remembered. What was remembered is found where it
// would be now, whichever half that is.
func (c *clock) growPast() {
	n := max(minPast, len(c.past))
	for n < 2*c.len() {
		n *= 2
	}
	old := c.past
	c.past = make([]past, n)
	for i := 0; len(old) > 0 && i < n; i += len(old) {
		copy(c.past[i:], old)
	}
}
