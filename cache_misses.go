package leasing

import (
	"hash/maphash"
	"time"
)

// misses counts the latest reads of keys that are not owned, so that only those are
// claimed that are read several times. It belongs to the cache and is guarded by
// cache.mu.
//
// Counts are kept in two generations. The young one becomes the old one when it is
// missWindow old, and is dropped when it is twice as old. So a read counts for
// longer than missWindow, and for twice that at most. A generation that is full
// becomes the old one at once, so that memory is bounded: then a read counts at
// least until maxMisses other keys have been read.
type misses struct {
	after      int // how many reads it takes
	seed       maphash.Seed
	young, old map[uint64]uint32 // by the key's hash: two keys of one hash, if ever, are counted as one
	since      time.Time         // when the young generation began
}

const (
	missWindow = 10 * time.Second
	maxMisses  = 1 << 16 // keys in a generation
)

// newMisses returns nil if the first read is enough: then nothing is counted.
func newMisses(after int) *misses {
	if after <= 1 {
		return nil
	}
	return &misses{after: after, seed: maphash.MakeSeed(), young: make(map[uint64]uint32)}
}

// enough counts a read of key at now, and reports whether there have been enough.
func (m *misses) enough(key string, now time.Time) bool {
	if m == nil {
		return true
	}
	m.age(now)
	h := maphash.String(m.seed, key)
	if _, ok := m.young[h]; !ok && len(m.young) >= maxMisses {
		m.turn(now)
	}
	m.young[h]++
	return int(m.young[h])+int(m.old[h]) >= m.after
}

// age drops what is too old at now. The young generation is as old as its reads
// may be, so it ends on time even if there is no read then.
func (m *misses) age(now time.Time) {
	switch age := now.Sub(m.since); {
	case age >= 2*missWindow:
		m.turn(now)
		m.old = nil
	case age >= missWindow:
		m.turn(m.since.Add(missWindow))
	}
}

// turn begins a generation.
func (m *misses) turn(since time.Time) {
	m.young, m.old, m.since = make(map[uint64]uint32), m.young, since
}

// claimAfter sets how many reads it takes until a key is claimed. It is called before
// the cache is used.
func (c *cache) claimAfter(reads int) { c.misses = newMisses(reads) }
