package leasing

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etcd-leasing/leasing/internal/memetcd"
	"go.uber.org/zap"
)

// journal is an observer that keeps what it is told.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, strings.TrimSpace(e.Kind.String()+" "+e.Key))
}

// take returns what was told since it was called last.
func (j *journal) take() string {
	synctest.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	defer func() { j.lines = nil }()
	return strings.Join(j.lines, ", ")
}

// The life of a key and of a session, as an observer is told it.
func TestEvents(t *testing.T) {
	var j journal
	onRigOf(t, Config{MaxKeys: 2, OnEvent: j.note}, func(t *testing.T, r *rig) {
		other, _ := r.other("other", 0)
		defer other.Close()
		for _, step := range []struct {
			what string
			do   func()
			want string
		}{
			{"begun", func() {}, "session valid"},
			{"first read", func() { r.get("a") }, "key claimed a"},
			{"asked back", func() { _, _ = other.Put(t.Context(), "a", "v") }, "key revoked a, key yielded a"},
			{"too many", func() { r.get("b"); r.get("c"); r.get("b"); r.get("b"); r.get("d") }, "key claimed b, key claimed c, key claimed d, key evicted c, key yielded c"},
			{"deleted by hand", func() { _, _ = r.srv.NewClient("x").Delete(t.Context(), "claims/b") }, "key lost b"},
			{"cut off", func() { r.conn.Cut(memetcd.Both); time.Sleep(2 * rigTTL) }, "key lost d, session in jeopardy"},
			{"healed", func() { r.conn.Heal(); time.Sleep(rigTTL) }, "session recovered"},
			{"owning again", func() { r.get("d") }, "key claimed d"},
			{"closed", func() { r.kv.Close() }, "session lost"},
		} {
			step.do()
			time.Sleep(100 * time.Millisecond)
			if got := j.take(); got != step.want {
				t.Errorf("%s: %s, want %s", step.what, got, step.want)
			}
		}
	})
}

// An observer that is slow loses events, and holds up nobody, not even Close.
func TestSlowObserver(t *testing.T) {
	onRigOf(t, Config{OnEvent: func(Event) { time.Sleep(time.Hour) }}, func(t *testing.T, r *rig) {
		begin := time.Now()
		const keys = maxEvents + 100
		for i := range keys {
			r.get(fmt.Sprint("k", i))
		}
		if d := time.Since(begin); d > 0 {
			t.Errorf("reads took %v", d)
		}
		if n := r.kv.Stats().EventsLost; n < 90 || n > 100 {
			t.Errorf("%d events lost", n)
		}
		r.kv.Close()
		if d := time.Since(begin); d > closeTimeout+time.Second {
			t.Errorf("Close took %v", d)
		}
		time.Sleep((maxEvents + 100) * time.Hour) // it is told of what there was
	})
}

// An observer may use the KV.
func TestObserverMayUseTheKV(t *testing.T) {
	var r *rig
	read := 0
	onRigOf(t, Config{OnEvent: func(e Event) {
		if e.Kind == KeyClaimed && e.Key == "k" && r != nil {
			r.get("other")
			read++
		}
	}}, func(t *testing.T, rr *rig) {
		r = rr
		r.get("k")
		synctest.Wait()
		if read != 1 {
			t.Error("the observer was not told, or is stuck")
		}
		r.wantOwned("k", "other")
	})
}

func TestEventKinds(t *testing.T) {
	seen := make(map[string]bool)
	for k := SessionValid; k <= KeyWritten; k++ {
		name := k.String()
		if seen[name] || strings.Contains(name, "EventKind") {
			t.Errorf("%d is called %q", int(k), name)
		}
		seen[name] = true
	}
	for _, k := range []EventKind{0, -1, KeyWritten + 1} {
		if k.String() != fmt.Sprintf("EventKind(%d)", int(k)) {
			t.Errorf("%d is called %q", int(k), k)
		}
	}
}

// What happens to the session is told in the order in which it happens, whoever notices.
func TestSessionEventsComeInOrder(t *testing.T) {
	c := newCache(10)
	c.events = newEvents(func(Event) {}, func() { t.Error("an event is lost") })
	s := &session{cache: c, log: zap.NewNop(), layout: newLayout("claims/")}
	live := newLease(1, time.Now(), time.Hour)
	for range 200 {
		var wg sync.WaitGroup
		for i := range 8 { // as claimLoop drops a lease, and the keeper is granted one
			wg.Go(func() {
				for range 10 {
					s.mu.Lock()
					if s.leases = nil; i%2 == 0 {
						s.leases = []*lease{live}
					}
					s.mu.Unlock()
					s.judge("x")
				}
			})
		}
		wg.Wait()
		// Jeopardy and what ends it take turns.
		told := c.events.take()
		for i := 1; i < len(told); i++ {
			if (told[i].Kind == SessionJeopardy) == (told[i-1].Kind == SessionJeopardy) {
				t.Fatalf("%q, and then %q", told[i-1].Kind, told[i].Kind)
			}
		}
	}
}
