package leasing

import "math"

// What the cache gives up by itself, so that it stays within its bounds.

// An owned key takes its entry, its snapshot, and its places in the index and on
// the clock, whose tables are between a half and completely full. A test holds
// these numbers against the heap.
const (
	entryBytes    = 96
	snapshotBytes = 96
	tableBytes    = 36
	keyOverhead   = entryBytes + snapshotBytes + tableBytes
)

// takes estimates how many bytes an owned key takes here. A small value is in
// the snapshot itself.
func takes(key string, s *snapshot) uint32 {
	n := keyOverhead + len(key)
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

// evictLocked gives up keys while more are owned than the bounds allow, other
// than keep.
func (c *cache) evictLocked(keep *entry) (out []yield) {
	for c.overLocked() {
		e := c.owning.victim(keep)
		if e == nil {
			return out
		}
		out = append(out, c.forgetLocked(e))
		c.evicted++
	}
	return out
}
