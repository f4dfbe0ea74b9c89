package leasing

import "sync/atomic"

// caution tells whether a put of a key that we do not own should ask for a claim in
// its way at once. Asking in the same request saves a commit if there is one, and
// makes the put slower if there is none.
type caution struct {
	unmet atomic.Int32 // keys that asked for nothing since another's claim was met
}

// wary is for how many keys without one another's claim is expected.
const wary = 64

// expect reports whether there may be a claim of somebody else's on the key of p.
func (c *caution) expect(p pin) bool {
	return p.grant == 0 && !p.ours && c.unmet.Load() < wary
}

// unneeded is told that a put has asked for nothing.
func (c *caution) unneeded() { c.unmet.Add(1) }

// met is told that there was one.
func (c *caution) met() { c.unmet.Store(0) }
