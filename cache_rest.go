package leasing

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// When the cache lets a key be claimed again.

// pause says when a key may be claimed again. It belongs to an entry.
type pause struct {
	until  time.Time     // it rests
	length time.Duration // of a rest for the sake of whoever asks
	loss   time.Duration // of one after the latest grants of ours, which did not pay; 0 if they did
	rested time.Time     // when the latest rest ended that was whole
	cut    bool          // the latest one was not
	least  time.Time     // when it may end if it is cut short

	// Whether the rest may be cut short: when the key is seen to have been written
	// after revision freed, at which its claim was gone or we wrote it ourselves;
	// 0 if it is not known to be gone.
	brief bool
	freed int64

	asked int64 // the latest grant of ours that was asked back, as far as that has been told

	// Somebody else's claim that is there, as far as is known: its grant, or 0, its
	// lease, and until when that is believed.
	holder  int64
	lease   clientv3.LeaseID
	foreign time.Time
	quiet   time.Time // a write of ours does not ask for it first until then
}

const (
	// A grant under which so many reads were served locally has paid. A whole rest
	// has been long enough if the key was not asked back before so many times its
	// length.
	payoff      = 8
	payoffRests = 2

	restMin = 250 * time.Millisecond
	restMax = 8 * time.Second
	// wholeRests is for how many times its length a rest that was not cut short
	// allows others to be.
	wholeRests = 20
	// foreignPause is how long a key that somebody else holds is read plainly,
	// unless its claim is seen to go before that.
	foreignPause = time.Minute
	// deniedPause is the same for a key whose claim was refused, or that is too large
	// to be kept.
	deniedPause = 10 * time.Second

	// quietPause is for how long a key that was asked for in vain is not asked for
	// before a write.
	quietPause = time.Minute

	// maxAging bounds the idle entries that are kept for the sake of their pause.
	maxAging = 1 << 16
)

// pauseLocked returns the pause of e, made if there is none.
func (e *entry) pauseLocked(now time.Time) *pause {
	if e.pause == nil {
		e.pause = &pause{until: now}
	}
	return e.pause
}

// deniedLocked keeps e from being claimed for a while: a claim would be of no use.
func (e *entry) deniedLocked(now time.Time) {
	p := e.pauseLocked(now)
	p.until, p.brief = later(p.until, now.Add(deniedPause)), false
}

// claimableLocked reports whether the key of e may be claimed at now.
func (e *entry) claimableLocked(now time.Time) bool {
	return e.state == idle && e.writes == 0 &&
		(e.pause == nil || !now.Before(e.pause.until) && !now.Before(e.pause.foreign))
}

// whyNot tells why a read of key that is not served is not to begin a claim.
func (c *cache) whyNot(key string, now time.Time) reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries.get(key)
	if c.misses != nil && c.claimableLocked(key, e, now) {
		return forSeldom
	}
	return whyNotLocked(e, now)
}

// whyInVain tells why a read is not served that has waited for cl.
func (c *cache) whyInVain(cl *claim, now time.Time) reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !cl.sent && cl.entry.claim != cl {
		return forNoSession
	}
	return whyNotLocked(c.entries.get(cl.key), now)
}

func whyNotLocked(e *entry, now time.Time) reason {
	switch {
	case e == nil || e.state == claiming:
		return forClaim
	case e.writes > 0:
		return forWriting
	case e.pause != nil && now.Before(e.pause.foreign):
		return forForeign
	case e.state == yielding, e.pause != nil && now.Before(e.pause.until):
		return forResting
	}
	return forClaim
}

// tidyLocked removes e from the index if it says nothing, or lets it age if it
// says only when its key may be claimed again.
func (c *cache) tidyLocked(e *entry) {
	switch {
	case e.state != idle || e.writes > 0 || e.aging:
	case e.pause == nil:
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
		if len(c.aging) <= maxAging && (now.Before(e.pause.until.Add(restMax)) || now.Before(e.pause.foreign)) {
			return
		}
		c.aging = c.aging[1:]
		e.aging = false
		if e.state == idle && e.writes == 0 {
			c.entries.remove(e)
		}
	}
}

// restLocked starts the rest of a key that was asked back.
//
// It rests for two reasons, and for as long as the longer of them takes. The first is
// that it was not read enough under its grant to pay for that: this part doubles from
// one such grant to the next, and is gone after one that paid. The first rest of a key
// is as long as is usual: longer where most grants of ours do not pay.
//
// The second is the writer who asked, who may be far away: if readers take the key at
// once whenever it has rested, he needs a rest that is longer than his way. So this part
// doubles when a key is asked back soon after a whole rest, also if it was another
// who took it: with many readers, the writer would have to wait for each in turn.
//
// This second part may be cut short: see written. Then a writer who is far away may be
// overtaken by others again and again. So that happens only for a time after a rest that
// was whole, and such a rest is what the next ones are judged by.
func (c *cache) restLocked(e *entry, wasOurs bool, now time.Time) {
	p := e.pauseLocked(now)
	paid := wasOurs && e.reads.Load()&paying >= payoff
	e.reads.Store(0)
	if !wasOurs && now.Before(p.until) {
		// Whoever asks now has all of his way before him.
		p.until, p.brief = later(p.until, now.Add(restMin)), false
	} else {
		if !p.cut {
			p.rested = p.until
		}
		first := p.length == 0
		whole := max(p.length, p.loss) // what the latest rest was, if it was whole
		switch soon := now.Sub(p.rested) < payoffRests*whole; {
		case first:
			p.length = restMin
		case !p.cut && soon:
			p.length = min(2*whole, restMax)
		case !p.cut && wasOurs:
			p.length = restMin
		}
		switch {
		case paid:
			p.loss = 0
		case first:
			p.loss = c.usual
		case wasOurs:
			p.loss = min(2*max(p.loss, restMin), restMax)
		}
		p.until = later(p.until, now.Add(max(p.length, p.loss)))
		p.least = now.Add(p.loss)
		p.brief = wasOurs && now.Before(p.rested.Add(wholeRests*p.length))
		p.cut, p.freed = false, 0
	}
	if wasOurs && now.Sub(c.judged) >= restMin { // many keys may go at once
		c.judged = now
		if paid {
			c.usual = max(c.usual/2, restMin)
		} else {
			c.usual = min(2*c.usual, restMax)
		}
	}
	c.tidyLocked(e)
	c.ageLocked(now)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// written takes in that key was last written at revision mod, as a read from
// etcd says. If that was after it was given back, whoever asked for it has had
// his turn, and a brief rest is over.
func (c *cache) written(key string, mod int64, now time.Time) {
	if c.entries.get(key) == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries.get(key)
	if e == nil || e.pause == nil || e.writes > 0 { // it may have been us
		return
	}
	p := e.pause
	if end := later(now, p.least); p.brief && p.freed > 0 && mod > p.freed && end.Before(p.until) {
		p.until, p.cut = end, true
	}
}

// freedLocked notes that the claim of e was gone, or that we wrote its key, at
// revision rev.
func (e *entry) freedLocked(rev int64) {
	if e.pause != nil {
		e.pause.freed = max(e.pause.freed, rev)
	}
}

// taken takes in that the claim r of somebody else's is there.
func (c *cache) taken(r claimRecord, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entryLocked(r.key)
	e.heldLocked(r, now)
	c.tidyLocked(e)
	c.ageLocked(now)
}

func (e *entry) heldLocked(r claimRecord, now time.Time) {
	if p := e.pauseLocked(now); r.grant >= p.holder {
		p.holder, p.lease, p.foreign = r.grant, r.lease, now.Add(foreignPause)
	}
}

// holders returns those claims of others on keys that may be asked for at now, as far
// as they are known.
func (c *cache) holders(keys []string, now time.Time) (held []claimRecord) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		e := c.entries.get(k)
		if e == nil || e.state != idle || e.pause == nil {
			continue // with a claim of ours, what is known of others' is old
		}
		if p := e.pause; p.holder > 0 && !now.Before(p.quiet) {
			held = append(held, claimRecord{key: k, grant: p.holder, lease: p.lease})
		}
	}
	return held
}

// quiet takes in that key was asked for in vain: etcd would not ask for it, or refused
// the write that it was for.
func (c *cache) quiet(key string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries.get(key); e != nil && e.pause != nil {
		e.pause.quiet = now.Add(quietPause)
	}
}

// free takes in that nobody had claimed key at revision rev.
func (c *cache) free(key string, rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries.get(key); e != nil {
		e.goneLocked(rev)
	}
}

// goneLocked takes in that the claim of somebody else's under grant, or an older
// one, is gone.
func (e *entry) goneLocked(grant int64) {
	if p := e.pause; p != nil && p.holder <= grant {
		p.holder, p.foreign = 0, time.Time{}
	}
}
