package leasing

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// lease is an etcd lease of this KV, with the time until which the claims that
// hang on it may be relied on. It is shared by the session, which renews it,
// and by every reader of a key under it.
//
// Invariant: I2. Its deadline is the time before the request was sent, plus
// the TTL in the reply, minus a margin. A machine that is suspended stops
// Go's monotonic clock, and the wall clock can be set back, so the lease is
// over when either of them says so. Once over, it stays over.
type lease struct {
	id clientv3.LeaseID

	// base turns times into the monotonic offsets below.
	base time.Time
	// mono and wall are the deadline on both clocks, in nanoseconds. A reader
	// may see one of them before and the other after a renewal: each value is a
	// bound of its own.
	mono atomic.Int64
	wall atomic.Int64

	// claims counts the claims that hang on this lease or may do so. It is
	// guarded by cache.mu.
	claims int

	mu    sync.Mutex
	ended bool          // guarded by mu
	ttl   time.Duration // as last granted; guarded by mu
	due   time.Time     // when to renew next; guarded by mu
}

func newLease(id clientv3.LeaseID, sent time.Time, ttl time.Duration) *lease {
	l := &lease{id: id, base: sent}
	l.extend(sent, ttl)
	return l
}

// margin is how long before its end a lease is no longer relied on. It covers
// clock rates that differ by up to 5 %, and an election timeout (1 s by
// default), in which a deposed leader may still renew leases, where the TTL
// has room for it. It never takes more than half of the TTL.
func margin(ttl time.Duration) time.Duration {
	m := max(500*time.Millisecond, ttl/20, min(1200*time.Millisecond, ttl/5))
	return min(m, ttl/2)
}

// live reports whether the lease may be relied on at now.
func (l *lease) live(now time.Time) bool {
	return int64(now.Sub(l.base)) < l.mono.Load() && now.UnixNano() < l.wall.Load()
}

// renew counts a renewal that was sent at the given time and answered at now.
// It reports false, and ends the lease, if the answer came too late: what
// hangs on the lease has to be dropped and claimed anew.
func (l *lease) renew(sent, now time.Time, ttl time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || !l.live(now) {
		l.endLocked()
		return false
	}
	l.extend(sent, ttl)
	return true
}

// end makes the lease be over from now on.
func (l *lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked()
}

func (l *lease) endLocked() {
	l.ended = true
	l.mono.Store(math.MinInt64)
	l.wall.Store(math.MinInt64)
}

// dueAt is when the lease is to be renewed: early enough for three tries
// before its deadline, and no earlier than that.
func (l *lease) dueAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.due
}

// retryAt is told that a renewal failed at now.
func (l *lease) retryAt(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due = now.Add(renewInterval(l.ttl) / 4)
}

// suspect makes the next renewal be due at now: something happened that may
// mean that etcd no longer has the lease.
func (l *lease) suspect(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due = now
}

// deadline is the time, on the monotonic clock, until which the lease is live.
func (l *lease) deadline() time.Time { return l.base.Add(time.Duration(l.mono.Load())) }

func renewInterval(ttl time.Duration) time.Duration { return (ttl - margin(ttl)) / 3 }

func (l *lease) extend(sent time.Time, ttl time.Duration) {
	deadline := sent.Add(ttl - margin(ttl))
	l.mono.Store(int64(deadline.Sub(l.base)))
	l.wall.Store(deadline.UnixNano())
	l.ttl, l.due = ttl, sent.Add(renewInterval(ttl))
}
