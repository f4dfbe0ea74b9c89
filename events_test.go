package leasing

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etcd-leasing/leasing/internal/memetcd"
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

// A key that is too large to be kept is evicted like others for which there is no room.
func TestTooLargeIsEvicted(t *testing.T) {
	var j journal
	onRigOf(t, Config{MaxBytes: 2000, OnEvent: j.note}, func(t *testing.T, r *rig) {
		large := strings.Repeat("v", 4000)
		r.get("k")
		r.put("k", large)
		time.Sleep(time.Second)
		r.get("k")
		if got, want := strings.TrimPrefix(j.take(), "session valid, "), "key claimed k, key evicted k, key yielded k"; got != want+", "+want {
			t.Errorf("events: %s", got)
		}
		if s := r.kv.Stats(); s.Evictions != 2 || s.Yields != 2 || s.Claims.Made != 2 {
			t.Errorf("%d evictions, %d yields of %d claims, want 2 of each", s.Evictions, s.Yields, s.Claims.Made)
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
