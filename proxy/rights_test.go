package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const bound = 5 * time.Second

// A right counts from before etcd was asked, for less than the bound, and for
// nobody else and nothing else.
func TestRightsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRights(bound)
		alice := r.to("alice", []byte("k"))
		if alice.good(time.Now()) {
			t.Error("a right that etcd has not confirmed")
		}
		begin := time.Now()
		time.Sleep(bound / 2) // etcd takes its time
		alice.judged(begin, nil)
		time.Sleep(bound/2 - 1)
		if !alice.good(time.Now()) {
			t.Error("no right just before the bound")
		}
		for _, other := range []leave{
			r.to("bob", []byte("k")), r.to("alice", []byte("l")), r.to("alic", []byte("ek")), r.to("alicek", nil), r.to("", []byte("alicek")),
		} {
			if other.good(time.Now()) {
				t.Error("somebody else's right")
			}
		}
		time.Sleep(time.Nanosecond)
		if alice.good(time.Now()) {
			t.Error("a right at the bound")
		}
	})
}

// A refusal ends a right at once.
func TestRefusalForgets(t *testing.T) {
	r := newRights(bound)
	alice := r.to("alice", []byte("k"))
	alice.judged(time.Now(), nil)
	if !alice.good(time.Now()) {
		t.Fatal("no right")
	}
	alice.judged(time.Now(), rpctypes.ErrPermissionDenied)
	if alice.good(time.Now()) {
		t.Error("a right after it was refused")
	}
}

// Of too many rights the oldest are forgotten.
func TestRightsAreBounded(t *testing.T) {
	r, now := newRights(bound), time.Now()
	for i := range maxRights + 10 {
		r.to("alice", fmt.Append(nil, i)).judged(now, nil)
	}
	if r.read.Len() != maxRights || r.to("alice", []byte("9")).good(now) || !r.to("alice", []byte("10")).good(now) {
		t.Errorf("%d rights", r.read.Len())
	}
}

// With no bound nothing is answered from memory, to anybody.
func TestNoBoundIsNoMemory(t *testing.T) {
	now := time.Now()
	a, r := newAnonymous(0), newRights(0).to("alice", []byte("k"))
	for _, l := range []leave{a, r, never{}} {
		l.judged(now, nil)
		if l.good(now) {
			t.Errorf("%T is good", l)
		}
	}
}

// A wall clock that says that it is over is enough: the other stands still while the
// machine sleeps.
func TestWithin(t *testing.T) {
	now := time.Now()
	for begin, want := range map[time.Time]bool{
		now: true, now.Add(1 - bound): true, now.Add(-bound): false,
		now.Add(1 - bound).Round(0): true, now.Add(-bound).Round(0): false, // without a reading of the monotonic clock
	} {
		if within(begin, now, bound) != want {
			t.Errorf("within(%v ago) is not %v", now.Sub(begin), want)
		}
	}
}

// questions answers those of anonymous.run, and counts them.
type questions struct {
	mu    sync.Mutex
	asked int
	reply error
}

func (q *questions) ask(context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked++
	return q.reply
}

func (q *questions) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.asked
}

func (q *questions) answer(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.reply = err
}

// That etcd asks nobody for a token is found out in the background, as often for many
// callers as for none: a client that reads now and then is answered from memory, too.
func TestAnonymousIsAskedInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a, q := newAnonymous(bound), &questions{}
		if a.good(time.Now()) {
			t.Error("good before anybody was asked")
		}
		a.ask(ctx, q.ask)
		go a.run(ctx, q.ask)
		for _, silence := range []time.Duration{bound / 1000, bound / 10, 10 * bound} {
			n := q.count()
			for range 30 {
				time.Sleep(silence)
				synctest.Wait()
				if !a.good(time.Now()) {
					t.Fatalf("not good for who calls every %v", silence)
				}
			}
			if asked, bounds := q.count()-n, int(30*silence/bound); asked < 3*bounds-1 || asked > 3*bounds+1 {
				t.Errorf("%d questions in %d bounds", asked, bounds)
			}
		}
	})
}

// While etcd refuses callers without a token, it is asked only if there are any.
func TestAnonymousIsNotAskedForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a, q := newAnonymous(bound), &questions{reply: rpctypes.ErrUserEmpty}
		a.ask(ctx, q.ask)
		go a.run(ctx, q.ask)
		time.Sleep(10 * bound)
		if q.count() != 1 {
			t.Errorf("%d questions for nobody", q.count())
		}
		q.answer(nil) // authentication is off
		if a.good(time.Now()) {
			t.Error("good after a refusal")
		}
		synctest.Wait()
		if q.count() != 2 || !a.good(time.Now()) {
			t.Errorf("%d questions, good %v, though somebody has called", q.count(), a.good(time.Now()))
		}
	})
}

// If etcd turns authentication on, or cannot be asked, it ends within the bound.
func TestAnonymousEnds(t *testing.T) {
	for name, reply := range map[string]error{"refused": rpctypes.ErrUserEmpty, "away": errors.New("connection refused")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				a, q := newAnonymous(bound), &questions{}
				a.ask(ctx, q.ask)
				go a.run(ctx, q.ask)
				q.answer(reply)
				for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(bound / 20) {
					a.good(time.Now())
					synctest.Wait()
				}
				if a.good(time.Now()) {
					t.Error("good after the bound")
				}
				if q.count() > 8 {
					t.Errorf("%d questions", q.count())
				}
			})
		})
	}
}

// A caller whom etcd refuses closes the door for the others.
func TestAnonymousRefusedByACaller(t *testing.T) {
	a, now := newAnonymous(bound), time.Now()
	a.judged(now, nil)
	if !a.good(now) {
		t.Fatal("not good")
	}
	a.judged(now, rpctypes.ErrCompacted)
	if !a.good(now) {
		t.Error("an error that is about something else ended it")
	}
	a.judged(now, rpctypes.ErrUserEmpty)
	if a.good(now) {
		t.Error("good after a refusal")
	}
}
