package leasing

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// changes are the counters that f changes, by name.
func (r *rig) changes(f func()) string {
	r.t.Helper()
	before := counts(r.kv.Stats())
	f()
	time.Sleep(time.Second)
	after := counts(r.kv.Stats())
	var words []string
	for name, n := range after {
		if n != before[name] {
			words = append(words, fmt.Sprintf("%s+%d", name, n-before[name]))
		}
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

// counts are the counters of s by name, and how many durations there are.
func counts(s Stats) map[string]uint64 {
	m := make(map[string]uint64)
	var add func(prefix string, v reflect.Value)
	add = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			name := prefix + v.Type().Field(i).Name
			switch f := v.Field(i).Interface().(type) {
			case uint64:
				m[name] = f
			case int:
				m[name] = uint64(f)
			case Claims, Forwards:
				add(name+".", v.Field(i))
			case Histogram:
				m[name] = f.Count()
			}
		}
	}
	add("", reflect.ValueOf(s))
	return m
}

// Each thing that a KV does is counted once, as what it is.
func TestStats(t *testing.T) {
	onRigOf(t, Config{MaxKeys: 3}, func(t *testing.T, r *rig) {
		other, _ := r.other("other", 0)
		defer other.Close()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		get := func(kv *KV, key string, opts ...clientv3.OpOption) {
			t.Helper()
			_, err := kv.Get(t.Context(), key, opts...)
			must(err)
		}
		put := func(kv *KV, key string) {
			t.Helper()
			_, err := kv.Put(t.Context(), key, "v")
			must(err)
		}
		get(other, "foreign")
		time.Sleep(time.Second)
		for _, step := range []struct {
			what string
			do   func()
			want string
		}{
			{"first read", func() { get(r.kv, "k") }, "ClaimTime+1 Claims.Made+1 Entries+1"},
			{"read from memory", func() { get(r.kv, "k") }, "Hits+1"},
			{"transaction from memory", func() {
				_, err := r.kv.Txn(t.Context()).Then(clientv3.OpGet("k"), clientv3.OpGet("k")).Commit()
				must(err)
			}, "Hits+1"},
			{"transaction that reads from etcd", func() {
				_, err := r.kv.Txn(t.Context()).Then(clientv3.OpGet("elsewhere")).Commit()
				must(err)
			}, "Forwards.Kind+1"},
			{"range", func() { get(r.kv, "k", clientv3.WithPrefix()) }, "Forwards.Kind+1"},
			{"stream", func() {
				stream, err := r.kv.GetStream(t.Context(), "k", clientv3.WithPrefix())
				must(err)
				for range stream {
				}
			}, "Forwards.Kind+1"},
			{"foreign key", func() { get(r.kv, "foreign") }, "Forwards.Foreign+1"},
			{"write of an owned key", func() { put(r.kv, "k") }, "Writes+1"},
			{"takeover", func() { put(r.kv, "foreign") }, "RevokesSent+1 TakeoverWait+1 Takeovers+1 Writes+1"},
			{"asked back", func() { put(other, "k") }, "RevokesAnswered+1 Yields+1 Entries+18446744073709551615"},
		} {
			if got := r.changes(step.do); strings.Join(sorted(strings.Fields(step.want)), " ") != got {
				t.Errorf("%s: %s, want %s", step.what, got, step.want)
			}
		}
		if got := r.changes(func() { get(r.kv, "fresh") }); got != "ClaimTime+1 Claims.Made+1 Entries+1" {
			t.Errorf("a fresh key: %s", got)
		}
		time.Sleep(time.Minute)
		if got := r.changes(func() {
			for i := range 4 {
				get(r.kv, fmt.Sprint("many", i))
			}
		}); got != "ClaimTime+4 Claims.Made+4 Entries+2 Evictions+2 Yields+2" {
			t.Errorf("too many keys: %s", got)
		}
		s := r.kv.Stats()
		if s.Leases != 1 || s.ToDeadline <= 0 || s.ToDeadline > rigTTL {
			t.Errorf("%d leases, %v to the deadline", s.Leases, s.ToDeadline)
		}
	})
}

func sorted(words []string) []string {
	slices.Sort(words)
	return words
}

// Resting keys, writes under way, missing sessions, lost replies and strangers'
// deletions of claims are told apart.
func TestStatsOfWhatGoesWrong(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		other, _ := r.other("other", 0)
		defer other.Close()
		get := func(key string) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, _ = r.kv.Get(ctx, key)
		}
		get("k")
		if _, err := other.Put(t.Context(), "k", "v"); err != nil {
			t.Fatal(err)
		}
		if got := counts(r.kv.Stats())["Forwards.Resting"]; got != 0 {
			t.Errorf("%d reads of resting keys before there were any", got)
		}
		get("k")
		if got := counts(r.kv.Stats())["Forwards.Resting"]; got != 1 {
			t.Errorf("%d reads of a resting key, want 1", got)
		}
		get("lost")
		plain := r.srv.NewClient("plain")
		if got := r.changes(func() { _, _ = plain.Delete(t.Context(), "claims/lost") }); got != "Entries+18446744073709551615 Lost+1" {
			t.Errorf("a claim deleted by hand: %s", got)
		}
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if names(req, "claims/unknown") {
				return nil, memetcd.ErrLost
			}
			return do(ctx)
		})
		if got := r.changes(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := r.kv.Put(ctx, "unknown", "v"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("put: %v", err)
			}
		}); got != "UnknownOutcomes+1" {
			t.Errorf("a write without a reply: %s", got)
		}
		r.conn.Cut(memetcd.Both)
		time.Sleep(2 * rigTTL)
		if s := r.kv.Stats(); s.Leases != 0 || s.ToDeadline != 0 || s.Entries != 0 {
			t.Errorf("cut off: %+v", s)
		}
		before := counts(r.kv.Stats())["Forwards.NoSession"]
		get("k")
		if got := counts(r.kv.Stats())["Forwards.NoSession"] - before; got != 1 {
			t.Errorf("%d reads without a session, want 1", got)
		}
		r.conn.Heal()
	})
}

// Reads that do not claim a key yet are counted as such.
func TestStatsOfReadsThatAreTooSeldom(t *testing.T) {
	onRigOf(t, Config{ClaimAfter: 3}, func(t *testing.T, r *rig) {
		if got := r.changes(func() { r.get("k"); r.get("k") }); got != "Forwards.Seldom+2" {
			t.Errorf("the first two reads: %s", got)
		}
		if got := r.changes(func() { r.get("k"); r.get("k") }); got != "ClaimTime+1 Claims.Made+1 Entries+1 Hits+1" {
			t.Errorf("the next two: %s", got)
		}
	})
}

// A read whose claim was begun, and could not be sent, was not too seldom.
func TestStatsOfClaimsThatAreDropped(t *testing.T) {
	for _, after := range []int{1, 2} {
		onRigOf(t, Config{ClaimAfter: after}, func(t *testing.T, r *rig) {
			for _, k := range []string{"s0", "s1", "k"} {
				for range after - 1 {
					r.get(k)
				}
			}
			stop := make(chan struct{})
			r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
				<-stop
				return do(ctx)
			})
			var wg sync.WaitGroup
			for _, k := range []string{"s0", "s1"} { // those who send claims are busy
				wg.Go(func() { _, _ = r.kv.Get(t.Context(), k) })
				time.Sleep(time.Millisecond)
			}
			before := counts(r.kv.Stats())
			r.get("k")
			now := counts(r.kv.Stats())
			if now["Claims.Dropped"] != before["Claims.Dropped"]+1 || now["Forwards.NoSession"] != before["Forwards.NoSession"]+1 ||
				now["Forwards.Seldom"] != before["Forwards.Seldom"] {
				t.Errorf("ClaimAfter %d: %v, before: %v", after, now, before)
			}
			close(stop)
			wg.Wait()
		})
	}
}

// A write that waits for a yield of ours takes nothing over, and what many readers wait
// for is one claim.
func TestStatsOfWaits(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			time.Sleep(50 * time.Millisecond)
			return do(ctx)
		})
		if got := r.changes(func() {
			for range 10 {
				go r.get("k")
			}
		}); !strings.HasPrefix(got, "ClaimTime+10 Claims.Made+1 Entries+1") { // those who came late have hits, too
			t.Errorf("ten readers of a key: %s", got)
		}
		if got := r.changes(func() {
			go r.kv.Release(t.Context(), "k")
			time.Sleep(time.Millisecond)
			r.put("k", "v")
		}); got != "Entries+18446744073709551615 Writes+1 Yields+1" {
			t.Errorf("a write beside our own yield: %s", got)
		}
	})
}

// Hits are counted exactly by many goroutines.
func TestStatsCountEveryHit(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.get("k")
		before := r.kv.Stats().Hits
		var wg sync.WaitGroup
		const goroutines, each = 8, 1000
		for range goroutines {
			wg.Go(func() {
				for range each {
					if _, err := r.kv.Get(t.Context(), "k"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := r.kv.Stats().Hits - before; n != goroutines*each {
			t.Errorf("%d hits, want %d", n, goroutines*each)
		}
	})
}

func TestHistogram(t *testing.T) {
	var h histogram
	for _, d := range []time.Duration{0, 250 * time.Microsecond, 251 * time.Microsecond, time.Second, time.Hour} {
		h.add(d)
	}
	r := h.read()
	if r.Count() != 5 || r.Sum != time.Hour+time.Second+501*time.Microsecond {
		t.Errorf("%d durations, %v together", r.Count(), r.Sum)
	}
	if r.Counts[0] != 2 || r.Counts[1] != 1 || r.Counts[len(r.Counts)-1] != 1 {
		t.Errorf("counts %v of %v", r.Counts, r.Bounds)
	}
	if i, _ := slices.BinarySearch(r.Bounds, time.Second); r.Counts[i] != 1 || r.Bounds[i] < time.Second {
		t.Errorf("a second is not in the bucket up to %v", r.Bounds[i])
	}
}

// The keys that are read most and that others ask for most are found among many.
func TestTopKeys(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		other, _ := r.other("other", 0)
		defer other.Close()
		for i := range 100 {
			key := fmt.Sprint("k", i)
			r.get(key)
			for range (100 - i) * sampled {
				r.get(key)
			}
		}
		for range 3 {
			r.get("k7")
			if _, err := other.Put(t.Context(), "k7", "v"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		hot, contended := r.kv.TopKeys(3)
		if len(hot) != 3 || hot[0].Key != "k0" || hot[0].Count > 101*sampled || hot[0].Count < 99*sampled {
			t.Errorf("hot: %v", hot)
		}
		if len(contended) != 1 || contended[0] != (KeyCount{"k7", 3}) {
			t.Errorf("contended: %v", contended)
		}
		if all, _ := r.kv.TopKeys(1000); len(all) != 64 {
			t.Errorf("%d keys", len(all))
		}
		if none, _ := r.kv.TopKeys(-1); len(none) != 0 {
			t.Errorf("%d keys", len(none))
		}
	})
}

// Transactions that are answered from memory are reads of their keys as gets are.
func TestTopKeysOfTransactions(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.get("k")
		r.get("l")
		const reads = 100 * sampled
		for range reads {
			_, err := r.kv.Txn(t.Context()).If(clientv3.Compare(clientv3.Version("l"), "=", 0)).Then(clientv3.OpGet("k")).Commit()
			if err != nil {
				t.Fatal(err)
			}
		}
		hot, _ := r.kv.TopKeys(3)
		if len(hot) != 2 {
			t.Fatalf("hot: %v", hot)
		}
		for _, k := range hot {
			if k.Count > reads || k.Count < reads/2 { // less what was left over in each stripe
				t.Errorf("hot: %v after %d reads", k, reads)
			}
		}
	})
}

// However many keys come, what is noted stays bounded, and a frequent key is found.
func TestTopKeysAreBounded(t *testing.T) {
	var top topKeys
	for i := range 100_000 {
		top.note(fmt.Sprint("rare", i))
		if i%50 == 0 {
			top.note("frequent")
		}
	}
	if len(top.counts) > maxTop {
		t.Errorf("%d keys are noted", len(top.counts))
	}
	if best := top.top(1); len(best) != 1 || best[0].Key != "frequent" || best[0].Count > 2000 {
		t.Errorf("best: %v", best)
	}
}

// A miss is a read that might have been a hit: not of the kind that never is, nor one that
// found that somebody else has the key, which is forwarded besides.
func TestMisses(t *testing.T) {
	s := Stats{
		Hits:     1000,
		Forwards: Forwards{Kind: 1, Foreign: 2, Resting: 4, Writing: 8, NoSession: 16, Seldom: 32, Claim: 64},
		Claims:   Claims{Made: 128, Foreign: 256, Refused: 512, Dropped: 1024, Unknown: 2048},
	}
	if n := s.Misses(); n != 254 {
		t.Errorf("%d misses", n)
	}
}

// A write that had to wait and came to nothing is counted, whether it asked first or not.
func TestGaveUpWaiting(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		other, conn := r.other("other", 0)
		defer other.Close()
		defer conn.Heal()
		if _, err := other.Get(t.Context(), "theirs"); err != nil {
			t.Fatal(err)
		}
		conn.Cut(memetcd.Both)
		for _, d := range []time.Duration{50 * time.Millisecond, 3 * time.Second} { // the first is in too much of a hurry to ask first
			ctx, cancel := context.WithTimeout(t.Context(), d)
			changes := r.changes(func() {
				if _, err := r.kv.Put(ctx, "theirs", "v"); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
			cancel()
			if !strings.Contains(changes, "GaveUp+1") || strings.Contains(changes, "Writes") || strings.Contains(changes, "Takeover") {
				t.Errorf("within %v: %s", d, changes)
			}
		}
	})
}
