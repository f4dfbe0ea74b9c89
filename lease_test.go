package leasing

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

const second = time.Second

// skew returns t with its two clocks moved apart, as a suspended machine or a
// correction of the wall clock does. There is no public way to do so; that it
// has worked is checked here.
func skew(t *testing.T, from time.Time, mono, wall time.Duration) time.Time {
	t.Helper()
	out := from.Add(wall)
	clocks := (*struct {
		wall uint64
		mono int64
		loc  *time.Location
	})(unsafe.Pointer(&out))
	clocks.mono += int64(mono - wall)
	if out.Sub(from) != mono || out.UnixNano()-from.UnixNano() != int64(wall) {
		t.Fatalf("package time has changed: cannot move its clocks apart (%v, %v)", out.Sub(from), out.UnixNano()-from.UnixNano())
	}
	return out
}

func TestI2Margin(t *testing.T) {
	for _, tc := range []struct{ ttl, want time.Duration }{
		{1 * second, 500 * time.Millisecond},
		{2 * second, 500 * time.Millisecond},
		{3 * second, 600 * time.Millisecond},
		{5 * second, 1 * second},
		{6 * second, 1200 * time.Millisecond},
		{10 * second, 1200 * time.Millisecond},
		{60 * second, 3 * second},
		{300 * second, 15 * second},
	} {
		if got := margin(tc.ttl); got != tc.want {
			t.Errorf("margin(%v) = %v, want %v", tc.ttl, got, tc.want)
		}
	}
	for ttl := second; ttl <= 600*second; ttl += second {
		m := margin(ttl)
		if m > ttl/2 {
			t.Errorf("margin(%v) = %v leaves less than half of it to serve", ttl, m)
		}
		if m < 500*time.Millisecond || m < ttl/20 {
			t.Errorf("margin(%v) = %v is less than 500 ms or 5 %%", ttl, m)
		}
		if ttl >= 5*second && m < second {
			t.Errorf("margin(%v) = %v does not cover an election timeout, and has room for it", ttl, m)
		}
		// Three tries fit before the deadline.
		if r := renewInterval(ttl); r <= 0 || 3*r > ttl-m {
			t.Errorf("renewals of %v every %v", ttl, r)
		}
	}
}

func TestI2DeadlineCountsFromTheSending(t *testing.T) {
	sent := time.Now()
	l := newLease(1, sent, 10*second)
	end := 10*second - margin(10*second)
	if got := l.deadline(); !got.Equal(sent.Add(end)) {
		t.Errorf("deadline %v after the sending, want %v", got.Sub(sent), end)
	}
	for _, tc := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {end - 1, true}, {end, false}, {end + 1, false}, {time.Hour, false}} {
		if got := l.live(sent.Add(tc.after)); got != tc.want {
			t.Errorf("live %v after the sending: %v", tc.after, got)
		}
	}

	// A renewal that was sent after 3 s and answered after 8 s counts from 3 s on.
	if !l.renew(sent.Add(3*second), sent.Add(8*second), 10*second) {
		t.Fatal("a renewal in time was refused")
	}
	if at := sent.Add(3*second + end); l.live(at) || !l.live(at.Add(-1)) {
		t.Error("the renewed lease does not end one TTL less the margin after the renewal was sent")
	}
	if got, want := l.dueAt(), sent.Add(3*second+renewInterval(10*second)); !got.Equal(want) {
		t.Errorf("renewed next at %v, want %v", got.Sub(sent), want.Sub(sent))
	}
}

// etcd may grant another TTL than the one asked for, or than before.
func TestI2RenewalTakesTheTTLOfTheReply(t *testing.T) {
	sent := time.Now()
	l := newLease(1, sent, 60*second)
	if !l.renew(sent.Add(second), sent.Add(second), 5*second) {
		t.Fatal("a renewal in time was refused")
	}
	if at := sent.Add(second + 5*second - margin(5*second)); l.live(at) || !l.live(at.Add(-1)) {
		t.Error("the deadline does not follow the TTL of the latest reply")
	}
}

func TestI2LateRenewalIsRefusedForGood(t *testing.T) {
	sent := time.Now()
	end := 10*second - margin(10*second)
	for _, late := range []time.Duration{0, 1, second, time.Hour} {
		l := newLease(1, sent, 10*second)
		if l.renew(sent.Add(second), sent.Add(end+late), 10*second) {
			t.Errorf("a renewal answered %v after the deadline was taken", late)
		}
		// Not even for a moment before the deadline, nor by another renewal.
		if l.live(sent) || l.live(sent.Add(2*second)) {
			t.Errorf("answered %v late: still live", late)
		}
		if l.renew(sent.Add(second), sent.Add(2*second), 10*second) || l.live(sent.Add(3*second)) {
			t.Errorf("answered %v late: brought back by a later renewal", late)
		}
	}
}

// A grant whose reply takes longer than the lease lasts gives nothing.
func TestI2LateGrantIsWorthNothing(t *testing.T) {
	sent := time.Now()
	l := newLease(1, sent, 2*second)
	received := sent.Add(2 * second)
	if l.live(received) || l.renew(received, received, 2*second) {
		t.Error("a lease is live that was granted longer ago than its TTL")
	}
}

func TestI2EndIsFinal(t *testing.T) {
	sent := time.Now()
	l := newLease(1, sent, 10*second)
	l.end()
	l.end()
	if l.live(sent) || l.renew(sent, sent, 10*second) || l.live(sent) {
		t.Error("a lease is live after its end")
	}
}

// Invariant: I2. The lease is over as soon as either clock says so.
func TestI2EitherClockEndsTheLease(t *testing.T) {
	sent := time.Now()
	const ttl = 10 * second
	end := ttl - margin(ttl)
	for _, tc := range []struct {
		name       string
		mono, wall time.Duration
		want       bool
	}{
		{"both before", end - 1, end - 1, true},
		{"suspended: the monotonic clock stood still", second, end, false},
		{"suspended for long", second, 24 * time.Hour, false},
		{"the wall clock was set back", end, second, false},
		{"the wall clock was set back before the grant", end, -time.Hour, false},
		{"the wall clock was set back a little, in time", end - 1, second, true},
		{"a short nap, in time", second, end - 1, true},
	} {
		l := newLease(1, sent, ttl)
		now := skew(t, sent, tc.mono, tc.wall)
		if got := l.live(now); got != tc.want {
			t.Errorf("%s: live = %v", tc.name, got)
		}
		if got := l.renew(now, now, ttl); got != tc.want {
			t.Errorf("%s: renewed = %v", tc.name, got)
		}
	}
}

// A renewal sets both deadlines from the instant of its sending, each on its
// own clock.
func TestI2RenewalAfterAJumpOfTheWallClock(t *testing.T) {
	sent := time.Now()
	const ttl = 10 * second
	end := ttl - margin(ttl)
	l := newLease(1, sent, ttl)
	// 3 s later the wall clock is set back by an hour; then we renew.
	renewed := skew(t, sent, 3*second, 3*second-time.Hour)
	if !l.renew(renewed, renewed, ttl) {
		t.Fatal("a renewal in time was refused")
	}
	if now := skew(t, renewed, end-1, end-1); !l.live(now) {
		t.Error("not live until the deadline")
	}
	if now := skew(t, renewed, end, end-1); l.live(now) {
		t.Error("live past the monotonic deadline")
	}
	if now := skew(t, renewed, end-1, end); l.live(now) {
		t.Error("live past the wall deadline")
	}
}

// Without a monotonic reading, the wall clock alone decides.
func TestI2WallClockAlone(t *testing.T) {
	sent := time.Now().Round(0)
	l := newLease(1, sent, 10*second)
	end := 10*second - margin(10*second)
	if !l.live(sent.Add(end-1)) || l.live(sent.Add(end)) {
		t.Error("wrong deadline on the wall clock")
	}
}

func TestLeaseIsDueEarlyEnoughForThreeTries(t *testing.T) {
	sent := time.Now()
	l := newLease(1, sent, 60*second)
	at := l.dueAt()
	tries := 0
	for at.Before(l.deadline()) {
		tries++
		l.retryAt(at.Add(5 * second)) // each fails after 5 s
		if next := l.dueAt(); !next.After(at) {
			t.Fatalf("tried again at %v after %v", next.Sub(sent), at.Sub(sent))
		}
		at = l.dueAt()
	}
	if tries < 3 {
		t.Errorf("%d tries before the deadline, want three at least", tries)
	}
	l.suspect(sent.Add(second))
	if got := l.dueAt(); !got.Equal(sent.Add(second)) {
		t.Errorf("a suspect lease is renewed at %v, want now", got.Sub(sent))
	}
}

// Readers, renewals and the end at once: what has ended stays so.
func TestI2ConcurrentLiveRenewEnd(t *testing.T) {
	for range 50 {
		sent := time.Now()
		l := newLease(1, sent, 10*second)
		var over atomic.Bool
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for range 200 {
					ended := over.Load()
					if l.live(sent.Add(second)) && ended {
						t.Error("live after its end")
						return
					}
				}
			})
			wg.Go(func() {
				for i := range 200 {
					ended := over.Load()
					at := sent.Add(time.Duration(i) * time.Millisecond)
					if l.renew(at, at, 10*second) && ended {
						t.Error("renewed after its end")
						return
					}
					l.dueAt()
					l.retryAt(at)
				}
			})
		}
		wg.Go(func() {
			l.end()
			over.Store(true)
		})
		wg.Wait()
		if l.live(sent) {
			t.Fatal("live in the end")
		}
	}
}
