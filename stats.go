package leasing

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// Stats is what a KV has done since it was made, and how it stands now. Counters
// only grow. They are taken one after the other, so that two of them may differ by
// what was under way.
type Stats struct {
	Hits     uint64   // gets, and transactions, that were answered from memory
	Claims   Claims   // what became of attempts to claim a key
	Forwards Forwards // reads that were sent to etcd, by reason

	Writes          uint64 // puts, deletions and writing transactions that were applied
	Takeovers       uint64 // those of them that had to wait for another owner; not for a yield of ours
	GaveUp          uint64 // writes that ended with an error after they had to wait for another owner
	UnknownOutcomes uint64 // writes of which it is not known whether they were applied
	RevokesSent     uint64 // keys that others were asked for
	RevokesAnswered uint64 // keys of ours that others asked for
	Yields          uint64 // claims of ours that were given back, confirmed; not those that went with their leases, as all do at Close
	Evictions       uint64 // keys given up because of Config.MaxKeys or MaxBytes
	Idle            uint64 // keys given up because of Config.IdleTimeout
	Lost            uint64 // keys whose claim somebody deleted, or whose lease was over or was given up with the session; not at Close
	Strangers       uint64 // keys that a stranger wrote while they were owned; see Config.WatchData
	EventsLost      uint64 // events that Config.OnEvent was not told of

	Entries       int           // keys that are owned
	Bytes         int64         // what they take in memory, about: see Config.MaxBytes
	Leases        int           // leases that claims hang on
	ToDeadline    time.Duration // until the first of them is over if it is not renewed; 0 if there is none
	WatchRestarts uint64        // how often the watch on the claims had to be made anew
	RoundTrip     time.Duration // how long the latest renewal of a lease took

	ClaimTime    Histogram // how long reads waited for a claim, which many may share; 1 s at most, then they are sent to etcd
	TakeoverWait Histogram // how long the takeovers took, with the wait for other owners
}

// Misses is how many reads etcd had to answer that might have been hits: those that were
// sent to it, but for the kind that always is, and one for each claim, which reads its
// key. Claims of Prefetch count as well.
func (s Stats) Misses() uint64 { return s.Forwards.Total() - s.Forwards.Kind + s.Claims.Made }

// Claims counts claims, or rather the keys that were to be claimed.
type Claims struct {
	Made    uint64 // the key was ours
	Foreign uint64 // somebody else has the key
	Refused uint64 // the key carries a lease of its own, or etcd gave an error, for lack of rights, say
	Dropped uint64 // it was not sent, as nothing is claimed at the time
	Unknown uint64 // it is not known whether it was made; then the claim is deleted
}

// Forwards counts reads that were sent to etcd, by the reason.
type Forwards struct {
	Kind      uint64 // ranges, streams, historical reads and the like, and those of KV.Uncached, which are always sent
	Foreign   uint64 // somebody else owns the key
	Resting   uint64 // the key was given back, or refused, a short time ago
	Writing   uint64 // a write of ours to the key is under way
	NoSession uint64 // nothing could be claimed, or a claim not be sent: no lease, no watch, or etcd does not answer claims
	Seldom    uint64 // the key was not read often enough to be claimed; see Config.ClaimAfter
	Claim     uint64 // the claim came to nothing, or its reply could not be shared
}

// Total is the number of reads that were sent to etcd.
func (f Forwards) Total() uint64 {
	return f.Kind + f.Foreign + f.Resting + f.Writing + f.NoSession + f.Seldom + f.Claim
}

// Histogram counts durations. Counts[i] is how many were at most Bounds[i] and more
// than the bound before it; the last one, which has no bound, counts the rest.
type Histogram struct {
	Bounds []time.Duration
	Counts []uint64
	Sum    time.Duration
}

// Count is how many durations there are.
func (h Histogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Stats returns what the KV has done so far. It is cheap, but not for the hit path.
func (kv *KV) Stats() Stats {
	c, s := &kv.cache.count, Stats{}
	s.Hits = c.hits.total()
	s.Claims = Claims{
		Made: c.claimsMade.Load(), Foreign: c.claimsForeign.Load(), Refused: c.claimsRefused.Load(),
		Dropped: c.claimsDropped.Load(), Unknown: c.claimsUnknown.Load(),
	}
	s.Forwards = Forwards{
		Kind: c.forwards[forKind].Load(), Foreign: c.forwards[forForeign].Load(), Resting: c.forwards[forResting].Load(),
		Writing: c.forwards[forWriting].Load(), NoSession: c.forwards[forNoSession].Load(),
		Seldom: c.forwards[forSeldom].Load(), Claim: c.forwards[forClaim].Load(),
	}
	s.Writes, s.Takeovers, s.GaveUp, s.UnknownOutcomes = c.writes.Load(), c.takeovers.Load(), c.gaveUp.Load(), c.unknowns.Load()
	s.RevokesSent, s.RevokesAnswered = c.revokesSent.Load(), c.revokesAnswered.Load()
	s.Yields, s.Evictions, s.Lost = c.yields.Load(), c.evictions.Load(), c.lost.Load()
	s.Idle = c.idled.Load()
	s.Strangers, s.EventsLost = c.strangers.Load(), c.eventsLost.Load()
	s.WatchRestarts, s.RoundTrip = c.watchRestarts.Load(), time.Duration(c.roundTrip.Load())
	s.ClaimTime, s.TakeoverWait = c.claimTime.read(), c.takeoverWait.read()
	s.Entries, s.Bytes = kv.cache.census()
	s.Leases, s.ToDeadline = kv.session.census(time.Now())
	return s
}

// counters is what Stats reads. Everybody counts in it.
type counters struct {
	hits     striped
	forwards [reasons]atomic.Uint64

	claimsMade, claimsForeign, claimsRefused, claimsDropped, claimsUnknown atomic.Uint64
	writes, takeovers, gaveUp, unknowns                                    atomic.Uint64
	revokesSent, revokesAnswered, yields, evictions, idled, lost           atomic.Uint64
	strangers, eventsLost, watchRestarts                                   atomic.Uint64
	hot, contended                                                         topKeys
	roundTrip                                                              atomic.Int64
	claimTime, takeoverWait                                                histogram
}

// claim counts one that is settled.
func (c *counters) claim(cl *claim, r claimReply) {
	switch {
	case r.outcome == applied:
		c.claimsMade.Add(1)
	case !cl.sent:
		c.claimsDropped.Add(1)
	case r.outcome == unknown:
		c.claimsUnknown.Add(1)
	case r.other != nil && !r.ours:
		c.claimsForeign.Add(1)
	default:
		c.claimsRefused.Add(1)
	}
}

// write counts one that is over, and how long it took if it had to wait for other
// owners.
func (c *counters) write(applied, waited bool, took time.Duration) {
	switch {
	case applied:
		c.writes.Add(1)
		if waited {
			c.takeovers.Add(1)
			c.takeoverWait.add(took)
		}
	case waited:
		c.gaveUp.Add(1)
	}
}

// reason is why a read is sent to etcd.
type reason uint8

const (
	forKind reason = iota
	forForeign
	forResting
	forWriting
	forNoSession
	forSeldom
	forClaim
	reasons
)

// striped is a counter for the hit path: goroutines on different processors count in
// different cache lines.
type striped [stripes]struct {
	atomic.Uint64
	_ [56]byte // the rest of the cache line
}

const stripes = 64

// add counts one, and returns how many have been counted in this stripe.
//
// Go does not tell which processor a goroutine is on. Where its stack is does for
// that: goroutines have stacks of their own, of 2 KiB at least.
func (c *striped) add() uint64 {
	var here byte
	return c[uintptr(unsafe.Pointer(&here))>>11%stripes].Add(1)
}

func (c *striped) total() (n uint64) {
	for i := range c {
		n += c[i].Load()
	}
	return n
}

// histogram counts durations in buckets of which each is twice as wide as the one
// before: from a quarter of a millisecond to a minute, about.
type histogram struct {
	buckets [histogramBuckets + 1]atomic.Uint64
	sum     atomic.Int64
}

const (
	histogramFirst   = 250 * time.Microsecond
	histogramBuckets = 19 // the last bound is 65.5 s
)

func (h *histogram) add(d time.Duration) {
	i := 0
	for b := histogramFirst; i < histogramBuckets && d > b; b *= 2 {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) read() Histogram {
	r := Histogram{
		Bounds: make([]time.Duration, histogramBuckets), Counts: make([]uint64, histogramBuckets+1),
		Sum: time.Duration(h.sum.Load()),
	}
	for i := range r.Bounds {
		r.Bounds[i] = histogramFirst << i
	}
	for i := range r.Counts {
		r.Counts[i] = h.buckets[i].Load()
	}
	return r
}
