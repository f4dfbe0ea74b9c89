package leasing

import (
	"math"
	"time"
)

// What the cache gives up by itself, so that it stays within its bounds.

// An owned key takes its entry, its snapshot, and its places in the index and on
// the clock, whose tables are between a half and completely full. A test holds
// these numbers against the heap.
const (
	entryBytes    = 128
	snapshotBytes = 96
	tableBytes    = 36
	keyOverhead   = entryBytes + snapshotBytes + tableBytes
)

// takes estimates how many bytes an owned key takes here. A small key is in the entry
// itself, a small value in the snapshot.
func takes(key string, s *snapshot) uint32 {
	n := keyOverhead
	if len(key) > smallKey {
		n += len(key)
	}
	if s != nil && len(s.value) > smallValue {
		n += len(s.value)
	}
	return uint32(min(n, math.MaxUint32))
}

// keeps reports whether there would be room for a key if it were the only one.
func (c *cache) keeps(bytes uint32) bool {
	return c.maxBytes == 0 || int64(bytes) <= c.maxBytes
}

func (c *cache) overLocked() bool {
	return c.owning.len() > c.limit || c.maxBytes > 0 && c.owning.bytes > c.maxBytes
}

// roomLocked reports whether one more key can be owned that takes so much.
func (c *cache) roomLocked(bytes uint32) bool {
	return c.owning.len() < c.limit && (c.maxBytes == 0 || c.owning.bytes+int64(bytes) <= c.maxBytes)
}

// fullLocked reports whether another key, of which nothing is known, would probably be
// one too many. The claims under way are taken to be of keys like those that came last.
func (c *cache) fullLocked() bool {
	return c.owning.len()+c.underway >= c.limit ||
		c.maxBytes > 0 && c.owning.bytes+int64(c.underway+1)*c.typical > c.maxBytes
}

// typicalLocked takes in how much a key takes that comes.
func (c *cache) typicalLocked(bytes uint32) {
	c.typical += (int64(bytes) - c.typical) / typicalOf
}

// typicalOf is how many keys cache.typical stands for, or so.
const typicalOf = 8

// evictLocked gives up keys while more are owned than the bounds allow: keep only if
// all others are being written.
func (c *cache) evictLocked(keep *entry) (out []yield) {
	for c.overLocked() {
		e := c.owning.victim(keep)
		if e == nil {
			return append(out, c.crowdOutLocked(keep))
		}
		out = append(out, c.crowdOutLocked(e))
	}
	return out
}

// crowdOutLocked gives up an owned key for which there is no room.
func (c *cache) crowdOutLocked(e *entry) yield {
	y := c.forgetLocked(e)
	c.count.evictions.Add(1)
	c.events.key(KeyEvicted, e.key)
	return y
}

const (
	// A pass over all keys looks for those that are not read; so many begin in the
	// time after which one is idle.
	idlePasses = 8
	// idleChunk is how many keys a pass looks at before it lets go of the lock.
	idleChunk = 4096
)

// passes is how far the search for idle keys has come.
type passes struct {
	latest uint8     // its number, from which keys tell how long ago they were read
	left   int       // how many keys of the clock's ring it has yet to look at
	due    time.Time // when the next may begin
}

// sweep gives up keys that were not read for the time idle, and returns when it is
// to be called again: at once if the pass is not done. It is not for readers to
// call.
//
// A key is given up 1 to 1.25 times idle after its last read, and later by as much
// as the passes begin late:
//
//  1. Pass m finds that the key was read after pass m-1 looked.
//  2. Pass m ends before pass m+1 begins. So does the time that counts.
//  3. Passes begin idle/idlePasses apart, or more. None finds another read.
//  4. Pass m+1+idlePasses gives the key up. At least idle has gone by since 2, and
//     two passes more since 1, if none was late.
//
// A pass goes down the ring, so that it misses no key that is there all the time:
// what takes the place of one that leaves comes from above.
func (c *cache) sweep(now time.Time, idle time.Duration) (out []yield, next time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ring := &c.passes, &c.owning.ring
	if p.left = min(p.left, len(*ring)); p.left == 0 {
		if now.Before(p.due) {
			return nil, p.due
		}
		p.latest++
		p.due = now.Add(idle / idlePasses)
		for _, e := range c.owning.young[c.owning.first:] {
			if e != nil {
				out = c.sweepLocked(out, e)
			}
		}
		p.left = len(*ring)
	}
	for range min(idleChunk, p.left) {
		p.left--
		out = c.sweepLocked(out, (*ring)[p.left])
	}
	if p.left > 0 {
		return out, now
	}
	return out, p.due
}

// sweepLocked has a pass look at e.
func (c *cache) sweepLocked(out []yield, e *entry) []yield {
	switch {
	case e.reads.Load()&recent != 0:
		e.reads.And(^uint32(recent))
		e.pass = c.passes.latest
	case c.passes.latest-e.pass <= idlePasses: // these numbers may run over
	case e.writes > 0: // but the difference may not
		e.pass = c.passes.latest - idlePasses - 1
	default:
		out = append(out, c.forgetLocked(e))
		c.count.idled.Add(1)
		c.events.key(KeyEvicted, e.key)
	}
	return out
}
