package leasing

import (
	"fmt"
	"testing"
)

// onClock puts n keys on a clock, of which the first are in the ring.
func onClock(n int) (*clock, *index) {
	c, x := new(clock), newIndex()
	for i := range n {
		c.add(x.add(fmt.Sprint("k", i)), 1)
	}
	return c, x
}

func give(c *clock) *entry {
	v := c.victim(nil)
	c.remove(v)
	return v
}

// The key that was read least goes before others, among those in the ring and the
// oldest one outside.
func TestClockTellsWhatWasReadLeast(t *testing.T) {
	c, x := onClock(5)
	for i, reads := range []int{3, 1, 2, 5, 4} {
		for range reads {
			x.get(fmt.Sprint("k", i)).reads.Add(oneUse)
		}
	}
	c.turns = 1 // nothing is taken off
	for _, want := range []string{"k1", "k2", "k0", "k4", "k3"} {
		if v := give(c); v.key != want {
			t.Fatalf("%s goes, want %s", v.key, want)
		}
	}
	if v := c.victim(nil); v != nil || c.len() != 0 || c.bytes != 0 {
		t.Errorf("%v goes from an empty clock of %d bytes", v, c.bytes)
	}
}

// A key that comes back takes up its count, less what was taken off others
// meanwhile, and one more for coming back.
func TestClockRemembersWhatWent(t *testing.T) {
	for _, tt := range []struct{ reads, agings, want uint32 }{
		{0, 0, 1}, {3, 0, 4}, {3, 2, 2}, {3, 100, 1}, {maxUses, 0, maxUses}, {maxUses, 255, 1},
	} {
		c, x := onClock(1)
		e := x.get("k0")
		e.reads.Store(tt.reads * oneUse)
		c.turns = 250 * agingTurns // these numbers may run over
		give(c)
		c.turns += uint(tt.agings) * agingTurns
		x.remove(e)
		back := x.add("k0")
		if c.add(back, 1); back.uses() != tt.want {
			t.Errorf("%+v: comes back with %d", tt, back.uses())
		}
		other := x.add("other")
		if c.add(other, 1); other.uses() != 0 {
			t.Errorf("%+v: another comes with %d", tt, other.uses())
		}
	}
}

// What is remembered grows with the keys, and is not forgotten when it does.
func TestClockMemoryGrows(t *testing.T) {
	c, x := onClock(minPast)
	e := x.get("k0")
	e.reads.Store(5 * oneUse)
	c.remember(e)
	before := len(c.past)
	for i := range 100 * minPast {
		c.add(x.add(fmt.Sprint("more", i)), 1)
	}
	c.growPast()
	if n := len(c.past); n <= before || n > 4*c.len() {
		t.Errorf("%d are remembered, %d before, for %d keys", n, before, c.len())
	}
	if got := c.recall(e.hash); got != 6 {
		t.Errorf("comes back with %d, want 6", got)
	}
}

// However many keys there are, the search for one looks at a few.
func TestClockLooksAtAFew(t *testing.T) {
	c, x := onClock(5000)
	x.each(func(e *entry) { e.reads.Store(used) })
	for range 1000 {
		hand := c.hand
		if v := c.victim(nil); v == nil || c.hand-hand > clockSample {
			t.Fatalf("the hand went from %d to %d, and found %v", hand, c.hand, v)
		} else {
			c.remove(v)
		}
		if c.hand > 4000 {
			c.hand = 0
		}
	}
}

// Keys that are being written, and the one to keep, do not go.
func TestClockSparesWhatIsInUse(t *testing.T) {
	for keep := range 5 {
		c, x := onClock(5)
		left := x.get(fmt.Sprint("k", keep))
		for i := range 5 {
			x.get(fmt.Sprint("k", i)).writes = int32(i % 2)
		}
		for n := 0; ; n++ {
			v := c.victim(left)
			if v == nil {
				if want := 3 - (1 - keep%2); n != want {
					t.Errorf("%d keys went, want %d", n, want)
				}
				break
			}
			if v == left || v.writes > 0 {
				t.Errorf("%s goes, which is in use", v.key)
			}
			c.remove(v)
		}
	}
}

// A key that comes and goes takes no more room each time, whoever else is there.
func TestClockReusesItsSlots(t *testing.T) {
	for _, others := range []int{0, 1, 10_000} {
		c, x := onClock(others)
		before, e := len(c.young), x.add("comes and goes")
		for range 10_000 {
			c.add(e, 1)
			c.remove(e)
		}
		if n := len(c.young); n > before+2*others/youngShare+2*minYoung {
			t.Errorf("beside %d keys: %d slots, %d before", others, n, before)
		}
		if c.len() != others || c.waits > c.len() {
			t.Errorf("beside %d keys: %d on the clock, %d wait", others, c.len(), c.waits)
		}
	}
}
