package leasing

import (
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// The writes that the cache has under way.

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
		if s.outcome == applied {
			p.entry.freedLocked(s.hdr.Revision)
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
	known, heard := e.known, e.heard
	e.known, e.heard = nil, 0
	switch {
	case e.lost || known == nil || known.lease == nil:
		return []yield{c.forgetLocked(e)}
	case heard > known.rev:
		return []yield{c.strangerLocked(e)}
	case !c.keeps(takes(e.key, known)):
		return []yield{c.crowdOutLocked(e)}
	}
	c.owning.resize(e, takes(e.key, known))
	e.snap.Store(known)
	return c.evictLocked(e)
}
