package leasing

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

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

// What is told to be given up is not read from memory any more: an observer that reads the
// key when it is told gets what etcd has.
func TestToldWhenForgotten(t *testing.T) {
	const owned = "join C k => begun sharing\n send C\n granted C @5 v@3\n"
	for what, giveUp := range map[string]func(*script){
		"written by a stranger": func(s *script) { s.play("heard k @6 => yield k@5") },
		"revoked":               func(s *script) { s.play("revoked k@5 ours => yield k@5") },
		"deleted by hand":       func(s *script) { s.play("deleted k @6 => L1") },
		"the lease is over":     func(s *script) { s.play("over L1") },
		"not read any more": func(s *script) {
			for range idlePasses + 2 {
				s.now = s.now.Add(time.Second)
				s.sweep("1s")
			}
		},
		"too many": func(s *script) {
			s.c.mu.Lock()
			defer s.c.mu.Unlock()
			s.c.limit = 0
			s.c.evictLocked(nil)
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := run(t, owned)
			told, early := 0, 0
			s.c.events = newEvents(func(Event) {}, func() {
				told++
				if s.c.lookup("k") != nil {
					early++
				}
			})
			s.c.events.taken = maxEvents // so that each event is told to be lost, at its time
			giveUp(s)
			if told == 0 || early > 0 {
				t.Errorf("%d events, %d while the key was still read from memory", told, early)
			}
		})
	}
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

// deletesClaim reports whether a request is a yield of key.
func deletesClaim(req proto.Message, key string) bool {
	return names(req, "claims/"+key) && strings.Contains(req.(*etcdserverpb.TxnRequest).String(), "request_delete_range")
}

// A yield that is sent again, as the reply to the first was lost, is told once.
func TestYieldWithALostReplyIsTold(t *testing.T) {
	var j journal
	onRigOf(t, Config{OnEvent: j.note}, func(t *testing.T, r *rig) {
		r.get("k")
		j.take()
		lost := false
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			resp, err := do(ctx)
			if !lost && deletesClaim(req, "k") {
				lost = true
				return nil, memetcd.ErrLost
			}
			return resp, err
		})
		if err := r.kv.Release(t.Context(), "k"); err != nil || !lost {
			t.Fatal(err, lost)
		}
		if got, n := j.take(), r.kv.Stats().Yields; got != "key yielded k" || n != 1 {
			t.Errorf("events: %s; %d yields", got, n)
		}
	})
}

// A claim whose REVOKE overtakes its reply is yielded for both, and told once, whichever
// of the two yields goes first and even if both go in one request.
func TestClaimIsYieldedOnce(t *testing.T) {
	for _, busy := range []bool{false, true} { // those who send yields are, until the reply is there
		var j journal
		onRigOf(t, Config{OnEvent: j.note}, func(t *testing.T, r *rig) {
			r.get("a")
			r.get("b")
			replies, yields := make(chan struct{}), make(chan struct{})
			r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
				if busy && (deletesClaim(req, "a") || deletesClaim(req, "b")) {
					<-yields
				}
				resp, err := do(ctx)
				if names(req, "claims/k") && !deletesClaim(req, "k") {
					<-replies
				}
				return resp, err
			})
			var wg sync.WaitGroup
			wg.Go(func() { r.get("k") })
			time.Sleep(time.Millisecond)
			for _, k := range []string{"a", "b"} {
				wg.Go(func() { _ = r.kv.Release(t.Context(), k) })
				time.Sleep(time.Millisecond)
			}
			other, _ := r.other("other", 0)
			defer other.Close()
			wg.Go(func() { _, _ = other.Put(t.Context(), "k", "v") })
			time.Sleep(10 * time.Millisecond)
			j.take()
			close(replies)
			time.Sleep(10 * time.Millisecond)
			close(yields)
			wg.Wait()
			time.Sleep(time.Second)
			got, s := j.take(), r.kv.Stats()
			if n := strings.Count(got, "key yielded k"); n != 1 || strings.Count(got, "key revoked k") != 1 {
				t.Errorf("busy: %v: one claim was yielded %d times: %s", busy, n, got)
			}
			if s.Yields != 3 || s.RevokesAnswered != 1 {
				t.Errorf("busy: %v: %d yields of 3 claims, %d REVOKEs of 1", busy, s.Yields, s.RevokesAnswered)
			}
		})
	}
}

// A REVOKE that is listed after a gap in the watch was told before.
func TestRevokeIsToldOnce(t *testing.T) {
	var j journal
	onRigOf(t, Config{OnEvent: j.note}, func(t *testing.T, r *rig) {
		other, _ := r.other("other", 0)
		defer other.Close()
		r.get("k")
		j.take()
		var heal atomic.Bool
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if !heal.Load() && deletesClaim(req, "k") {
				return nil, memetcd.ErrLost
			}
			return do(ctx)
		})
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = other.Put(t.Context(), "k", "v") })
		time.Sleep(100 * time.Millisecond)
		r.conn.Cut(memetcd.Both)
		r.conn.Reset()
		if _, err := r.srv.NewClient("x").Put(t.Context(), "claims/x", ""); err != nil { // so that there is something to compact
			t.Fatal(err)
		}
		if err := r.srv.Compact(r.srv.Revision()); err != nil {
			t.Fatal(err)
		}
		r.conn.Heal()
		time.Sleep(10 * time.Second)
		heal.Store(true)
		wg.Wait()
		time.Sleep(5 * time.Second)
		if got, n := j.take(), r.kv.Stats().RevokesAnswered; got != "key revoked k, key yielded k" || n != 1 {
			t.Errorf("events: %s; %d REVOKEs are counted", got, n)
		}
	})
}

// What the watch tells late of an earlier grant is no news of a key that is owned again.
func TestOldRevokeIsNotTold(t *testing.T) {
	var j journal
	onRigOf(t, Config{OnEvent: j.note}, func(t *testing.T, r *rig) {
		other, _ := r.other("other", 0)
		defer other.Close()
		r.get("k")
		r.conn.DelayWatch(time.Second)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = other.Put(t.Context(), "k", "v") })
		time.Sleep(10 * time.Millisecond)
		if err := r.kv.Release(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		r.get("k")
		j.take()
		time.Sleep(5 * time.Second)
		r.wantOwned("k")
		if got, s := j.take(), r.kv.Stats(); got != "" || s.RevokesAnswered != 0 || s.Yields != 1 {
			t.Errorf("events: %s; %d REVOKEs, %d yields", got, s.RevokesAnswered, s.Yields)
		}
	})
}

// What makes a silent watch speak is nobody's REVOKE, however often it is put.
func TestBeaconIsNotTold(t *testing.T) {
	var j journal
	onRigOf(t, Config{OnEvent: j.note}, func(t *testing.T, r *rig) {
		j.take()
		r.conn.DelayWatch(9 * time.Second)
		time.Sleep(30 * time.Second)
		r.conn.DelayWatch(0)
		time.Sleep(10 * time.Second)
		_, contended := r.kv.TopKeys(1)
		if got, s := j.take(), r.kv.Stats(); got != "" || s.RevokesAnswered != 0 || s.Yields != 0 || len(contended) > 0 {
			t.Errorf("events: %s; %d REVOKEs, %d yields, contended: %v", got, s.RevokesAnswered, s.Yields, contended)
		}
		if claims := r.claims(); len(claims) > 0 {
			t.Errorf("claims of %q", claims)
		}
	})
}

// Keys that are given up with the session are lost, each of them.
func TestKeysAreLostWithTheSession(t *testing.T) {
	var j journal
	onRigOf(t, Config{OnEvent: j.note}, func(t *testing.T, r *rig) {
		r.get("k")
		j.take()
		r.conn.DelayWatch(time.Hour)
		time.Sleep(2 * time.Minute)
		if got, n := j.take(), r.kv.Stats().Lost; !strings.HasPrefix(got, "key lost k, session in jeopardy") || n != 1 {
			t.Errorf("events: %s; %d keys lost", got, n)
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

// What has been taken from the queue and not been told yet waits, too; and events of the
// session find room however many keys go with it.
func TestEventsThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := 0
		var told []EventKind
		wait, done := make(chan struct{}), make(chan struct{})
		es := newEvents(func(e Event) { <-wait; told = append(told, e.Kind) }, func() { lost++ })
		go es.deliver(done)
		es.key(KeyClaimed, "first")
		synctest.Wait() // the observer is at it
		for range maxEvents {
			es.key(KeyClaimed, "k")
		}
		wait <- struct{}{} // now it has taken all others, and is at their first
		synctest.Wait()
		for range maxEvents {
			es.key(KeyLost, "k")
		}
		if want := maxEvents - 1; lost != want {
			t.Errorf("%d events are lost, want %d", lost, want)
		}
		es.session(SessionJeopardy, "test")
		close(wait)
		close(done)
		synctest.Wait()
		if n := len(told); n != maxEvents+3 || told[n-1] != SessionJeopardy {
			t.Errorf("%d events are told, the last is %v", n, told[n-1])
		}
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

// That nothing can be owned is told when nothing is read from memory any more, whoever
// notices.
func TestJeopardyIsToldWhenNoLeaseIsLive(t *testing.T) {
	for what, drop := range map[string]func(*session, *lease){
		"a lease is dropped": func(s *session, l *lease) { s.drop(l, "x") },
		"all are":            func(s *session, _ *lease) { s.reset("x") },
	} {
		t.Run(what, func(t *testing.T) {
			l := newLease(1, time.Now(), time.Hour)
			s := &session{cache: newCache(10), log: zap.NewNop(), layout: newLayout("claims/"), leases: []*lease{l}}
			s.judge("it has a lease")
			told, early := tell(s, l)
			l.mu.Lock() // whoever drops it gets no further
			var wg sync.WaitGroup
			wg.Go(func() { drop(s, l) })
			time.Sleep(10 * time.Millisecond)
			wg.Go(func() { s.judge("somebody looks") })
			time.Sleep(10 * time.Millisecond)
			l.mu.Unlock()
			wg.Wait()
			if *told != 1 || *early > 0 {
				t.Errorf("%d events, %d while the lease was live", *told, *early)
			}
		})
	}
}

// tell counts the events of s, each when it happens, and those while l is live.
func tell(s *session, l *lease) (told, early *int) {
	told, early = new(int), new(int)
	s.cache.events = newEvents(func(Event) {}, func() {
		*told++
		if l.live(time.Now()) {
			*early++
		}
	})
	s.cache.events.taken = maxEvents + sessionEvents // so that each event is told to be lost, at its time
	return told, early
}

// SessionLost, too, whoever notices first that the session has ended.
func TestLostIsToldWhenNoLeaseIsLive(t *testing.T) {
	for what, notice := range map[string]func(s *session, other *lease){
		"somebody looks":           func(s *session, _ *lease) { s.judge("a lease was granted") },
		"another lease is dropped": func(s *session, other *lease) { s.drop(other, "etcd no longer has it") },
	} {
		t.Run(what, func(t *testing.T) {
			l, other := newLease(1, time.Now(), time.Hour), newLease(2, time.Now(), time.Hour)
			s := &session{cache: newCache(10), log: zap.NewNop(), layout: newLayout("claims/"), leases: []*lease{l, other}}
			s.ready = make(chan struct{})
			s.judge("it has leases")
			told, early := tell(s, l)
			var wg sync.WaitGroup
			queue := func(f func()) { wg.Go(f); time.Sleep(10 * time.Millisecond) }
			s.mu.Lock() // whoever wants it queues up, and gets it in that order once the first has waited for long
			queue(func() { s.mu.Lock(); defer s.mu.Unlock() })
			queue(func() { s.finish("it ends") })
			queue(func() { notice(s, other) })
			s.mu.Unlock()
			s.mu.Lock() // behind the first of them: now it is handed over in order
			time.Sleep(10 * time.Millisecond)
			s.mu.Unlock()
			wg.Wait()
			if *told != 1 || *early > 0 {
				t.Errorf("%d events, %d while a lease was live", *told, *early)
			}
		})
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
