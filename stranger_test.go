package leasing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// What the watch on data says of keys that are owned, settled or not.
func TestStrangersWrites(t *testing.T) {
	for name, story := range map[string]string{
		"after what we know": owning("k", 5) + `
			heard k @6              => yield k@5
			read k                  => ?
			state k                 => yielding@5 rests=250ms`,
		"what we know already": owning("k", 5) + `
			heard k @3
			heard k @5
			read k                  => v@3 5`,
		"our own, settled": owning("k", 5) + `
			begin W k               => k@5
			applied W @8 k=w@8
			heard k @8
			read k                  => w@8 8`,
		"our own, seen before its reply": owning("k", 5) + `
			begin W k               => k@5
			heard k @8
			applied W @8 k=w@8
			read k                  => w@8 8`,
		"before our own, seen before its reply": owning("k", 5) + `
			begin W k               => k@5
			heard k @7
			heard k @8
			applied W @8 k=w@8
			read k                  => w@8 8`,
		"after our own, seen before its reply": owning("k", 5) + `
			begin W k               => k@5
			heard k @9
			applied W @8 k=w@8        => yield k@5
			read k                  => ?`,
		"while our own is refused": owning("k", 5) + `
			begin W k               => k@5
			heard k @9
			unsettled W             => yield k@5
			read k                  => ?`,
		"before the reply of a claim that has read it": `
			join C k                => begun sharing
			send C
			heard k @5
			granted C @6 v@5
			read k                  => v@5 6`,
		"after the read of a claim, before its reply": `
			join C k                => begun sharing
			send C
			heard k @7
			granted C @6 v@5        => yield k@6
			read k                  => ?`,
		"after the lease of our claim is over, perhaps by who owns it now": `
			join C k                => begun sharing
			send C S
			granted C @5 v@3
			wait 2s
			heard k @9
			state k                 => none`,
		"of keys that are not owned": `
			heard k @5
			state k                 => none`,
		"nobody saw them": owning("a", 5) + owning("b", 6) + owning("c", 7) + `
			join C bb               => begun sharing
			send C
			doubt b c               => yield b@6
			granted C @8 v@3        => yield bb@8
			read a                  => v@3 5
			read b                  => ?
			read c                  => v@3 7`,
	} {
		t.Run(name, func(t *testing.T) { run(t, story) })
	}
}

// A write by a program that does not use the protocol is noticed, told of, and read.
func TestWatchData(t *testing.T) {
	var j journal
	cfg := Config{WatchData: []string{"data/", "more/"}, OnEvent: func(e Event) {
		if e.Key == "data/k" {
			j.note(e)
		}
	}}
	onRigOf(t, cfg, func(t *testing.T, r *rig) {
		stranger := r.srv.NewClient("stranger")
		for _, key := range []string{"data/k", "data/other", "more/k", "elsewhere"} {
			r.get(key)
		}
		time.Sleep(time.Second)
		r.wantOwned("data/k", "data/other", "more/k", "elsewhere")
		if _, err := r.kv.Put(t.Context(), "data/k", "ours"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.wantOwned("data/k") // our own writes are not a stranger's
		for _, key := range []string{"data/k", "elsewhere"} {
			if _, err := stranger.Put(t.Context(), key, "theirs"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		resp, err := r.kv.Get(t.Context(), "data/k")
		if err != nil || string(resp.Kvs[0].Value) != "theirs" {
			t.Errorf("read %v, %v", resp, err)
		}
		r.wantOwned("data/other", "more/k", "elsewhere")
		if n := r.kv.Stats().Strangers; n != 1 {
			t.Errorf("%d strangers", n)
		}
		if logs := r.logs.FilterMessageSnippet("does not ask for it").All(); len(logs) != 1 || logs[0].ContextMap()["key"] != "data/k" {
			t.Errorf("logs: %v", logs)
		}
		if _, err := stranger.Delete(t.Context(), "more/", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := r.kv.Stats().Strangers; n != 1 {
			t.Errorf("%d strangers, but a deletion of nothing is none", n)
		}
		if got := j.take(); !strings.HasPrefix(got, "key claimed data/k, key written by a stranger data/k, key yielded data/k") {
			t.Errorf("events of the key: %s", got)
		}
	})
}

// A stranger's write is told of and logged, too, if it comes before the reply of our claim,
// or of a write of ours.
func TestStrangerBeforeAReply(t *testing.T) {
	for name, begin := range map[string]func(r *rig){
		"of a claim": func(r *rig) { r.get("data/k") },
		"of a write": func(r *rig) { r.put("data/k", "ours") },
	} {
		t.Run(name, func(t *testing.T) {
			var j journal
			onRigOf(t, Config{WatchData: []string{"data/"}, OnEvent: j.note}, func(t *testing.T, r *rig) {
				if name == "of a write" {
					r.get("data/k")
				}
				j.take()
				replies := make(chan struct{})
				r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
					resp, err := do(ctx)
					if names(req, "data/k") {
						<-replies
					}
					return resp, err
				})
				var wg sync.WaitGroup
				wg.Go(func() { begin(r) })
				time.Sleep(time.Millisecond)
				if _, err := r.srv.NewClient("stranger").Put(t.Context(), "data/k", "theirs"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
				close(replies)
				wg.Wait()
				time.Sleep(time.Second)
				if got := j.take(); got != "key written by a stranger data/k, key yielded data/k" {
					t.Errorf("events: %s", got)
				}
				if n, logs := r.kv.Stats().Strangers, r.logs.FilterMessageSnippet("does not ask for it").Len(); n != 1 || logs != 1 {
					t.Errorf("%d strangers, logged %d times", n, logs)
				}
			})
		})
	}
}

// New waits for the watches on data, as what is claimed before them is given up; but not
// for one that cannot be had.
func TestNewWaitsForWatchesOnData(t *testing.T) {
	const late = 3 * time.Second
	for name, w := range map[string]dataWatcher{
		"late":     {late: late},
		"refused":  {late: late, refuse: true},
		"too late": {late: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := memetcd.New(memetcd.Options{})
				defer srv.Close()
				cl := srv.NewClient("kv")
				w.Watcher, cl.Watcher = cl.Watcher, &w
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begin := time.Now()
				kv, err := New(ctx, cl, Config{Prefix: "claims/", WatchData: []string{"data/"}})
				if w.late > time.Minute {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("New returned %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer kv.Close()
				if d := time.Since(begin); d != late {
					t.Errorf("New took %v", d)
				}
				if _, err := kv.Get(ctx, "data/k"); err != nil {
					t.Fatal(err)
				}
				if _, err := srv.NewClient("stranger").Put(ctx, "data/k", "theirs"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if n := kv.Stats().Strangers; n == 0 != w.refuse {
					t.Errorf("%d strangers noticed", n)
				}
			})
		})
	}
}

// dataWatcher delays the watches on data, or refuses them then.
type dataWatcher struct {
	clientv3.Watcher
	late   time.Duration
	refuse bool
}

func (w *dataWatcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	if key != "data/" {
		return w.Watcher.Watch(ctx, key, opts...)
	}
	if !sleep(ctx, w.late) || w.refuse {
		none := make(chan clientv3.WatchResponse)
		close(none)
		return none
	}
	return w.Watcher.Watch(ctx, key, opts...)
}

// The log does not repeat itself when strangers write on and on.
func TestStrangersAreLoggedSeldom(t *testing.T) {
	onRigOf(t, Config{WatchData: []string{""}}, func(t *testing.T, r *rig) {
		stranger := r.srv.NewClient("stranger")
		for i := range 50 {
			key := fmt.Sprint("k", i)
			r.get(key)
			if _, err := stranger.Put(t.Context(), key, "theirs"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := r.kv.Stats().Strangers; n != 50 {
			t.Errorf("%d strangers", n)
		}
		if n := r.logs.FilterMessageSnippet("does not ask for it").Len(); n != 1 {
			t.Errorf("logged %d times in 5 s", n)
		}
	})
}

// What was written while the watch on data could not be resumed, nobody saw. So
// every key under the prefix is given up when it runs again.
func TestWatchDataAfterAGap(t *testing.T) {
	onRigOf(t, Config{WatchData: []string{"data/"}}, func(t *testing.T, r *rig) {
		stranger := r.srv.NewClient("stranger")
		r.get("data/k")
		r.get("elsewhere")
		r.conn.Cut(memetcd.Both)
		r.conn.Reset()
		for _, key := range []string{"data/k", "data/last"} {
			if _, err := stranger.Put(t.Context(), key, "theirs"); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.srv.Compact(r.srv.Revision()); err != nil {
			t.Fatal(err)
		}
		r.conn.Heal()
		time.Sleep(20 * time.Second)
		r.wantOwned("elsewhere")
		got, err := r.kv.Get(t.Context(), "data/k")
		if err != nil || string(got.Kvs[0].Value) != "theirs" {
			t.Errorf("read %v, %v", got, err)
		}
	})
}

// Prefixes that another one covers are watched once.
func TestWatchDataOfOverlappingPrefixes(t *testing.T) {
	for _, tc := range [][2][]string{
		{nil, nil},
		{{"b/", "a/"}, {"a/", "b/"}},
		{{"a/b/", "a/", "a/", "a/c"}, {"a/"}},
		{{"a", "", "b"}, {""}},
		{{"a/", "a"}, {"a"}},
	} {
		if got := outermost(tc[0]); !slices.Equal(got, tc[1]) {
			t.Errorf("%q: %q", tc[0], got)
		}
	}
}
