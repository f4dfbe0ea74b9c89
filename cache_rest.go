package leasing

import (
	"time"
)

// When the cache lets a key be claimed again.

const (
	// A grant under which so many reads were served locally has paid, if it was
	// not asked back before so many times the length of the rest before it.
	payoff      = 8
	payoffRests = 2

	// recent marks a count of reads: there was one since the clock came by.
	recent = 1 << 8

	restMin = 250 * time.Millisecond
	restMax = 8 * time.Second
	// foreignPause is how long a key that somebody else holds is read plainly,
	// unless its claim is seen to go before that.
	foreignPause = 2 * time.Second
	// deniedPause is the same for a key whose claim was refused.
	deniedPause = 10 * time.Second

	// maxAging bounds the idle entries that are kept for the sake of their rest.
	maxAging = 1 << 16
)

// tidyLocked removes e from the index if it says nothing, or lets it age if it
// says only when its key may be claimed again.
func (c *cache) tidyLocked(e *entry) {
	switch {
	case e.state != idle || e.writes > 0 || e.aging:
	case e.until.IsZero() && e.foreign.IsZero():
		c.entries.remove(e)
	default:
		e.aging = true
		c.aging = append(c.aging, e)
	}
}

// ageLocked drops idle entries that have rested, from the oldest on. An entry
// outlives its rest, so that the next rest can grow from it.
func (c *cache) ageLocked(now time.Time) {
	for range 4 {
		if len(c.aging) == 0 {
			return
		}
		e := c.aging[0]
		if len(c.aging) <= maxAging && (now.Before(e.until.Add(restMax)) || now.Before(e.foreign)) {
			return
		}
		c.aging = c.aging[1:]
		e.aging = false
		if e.state == idle && e.writes == 0 {
			c.entries.remove(e)
		}
	}
}

// restLocked starts the rest of a key that was asked back. The rest of a key of
// ours doubles while ownership does not pay; any other rests for a while. To
// pay, it must have been read, and not have been asked back soon after its rest:
// else readers who take it at once would starve a writer who needs longer than
// that rest. For the same reason it doubles if another who took it was asked so
// soon: with many readers, the writer would have to wait for each in turn.
func (c *cache) restLocked(e *entry, wasOurs bool, now time.Time) {
	switch {
	case !wasOurs && now.Sub(e.until) >= payoffRests*e.rest:
		e.rest = max(e.rest, restMin)
	case !wasOurs && now.Before(e.until): // it rests as it is
	case e.reads.Load()&^recent >= payoff && now.Sub(e.until) >= payoffRests*e.rest:
		e.rest = restMin
	default:
		e.rest = min(max(2*e.rest, restMin), restMax)
	}
	e.reads.Store(0)
	e.until = later(e.until, now.Add(e.rest))
	c.tidyLocked(e)
	c.ageLocked(now)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// claimableLocked reports whether the key of e may be claimed at now.
func (c *cache) claimableLocked(e *entry, now time.Time) bool {
	return e.state == idle && e.writes == 0 && !now.Before(e.until) && !now.Before(e.foreign)
}
