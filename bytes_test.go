package leasing

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// What the cache believes its keys to take is what the heap grows by, within a
// quarter, whatever their sizes, and also when keys come and go.
func TestBytesAreEstimatedHonestly(t *testing.T) {
	if n := unsafe.Sizeof(entry{}); n > entryBytes || n <= 112 { // the sizes that the allocator has
		t.Errorf("an entry takes %d bytes, not %d", n, entryBytes)
	}
	if n := unsafe.Offsetof(entry{}.small) + smallKey; n > 64 {
		t.Errorf("what readers look at takes %d bytes of an entry, more than a cache line", n)
	}
	if n := unsafe.Sizeof(snapshot{}); n != snapshotBytes {
		t.Errorf("a snapshot takes %d bytes, not %d", n, snapshotBytes)
	}
	for _, tt := range []struct{ keys, key, value, more int }{
		{keys: 16_000, key: 16, value: 0},
		{keys: 17_000, key: 16, value: smallValue},
		{keys: 17_000, key: smallKey + 1, value: 0},
		{keys: 20_000, key: 30, value: smallValue + 1},
		{keys: 20_000, key: 200, value: 1000},
		{keys: 30_000, key: 100, value: 300},
		{keys: 16_000, key: 16, value: 16, more: 20_000},
		{keys: 20_000, key: 40, value: 100, more: 20_000},
	} {
		c := newCache(tt.keys)
		before := heap()
		ownMany(c, tt.keys+tt.more, tt.key, tt.value)
		got, grown := c.owning.bytes, heap()-before
		if c.owning.len() != tt.keys {
			t.Fatalf("%d keys are owned, want %d", c.owning.len(), tt.keys)
		}
		t.Logf("%+v: %d bytes a key, estimated at %d", tt, grown/int64(tt.keys), got/int64(tt.keys))
		if r := float64(got) / float64(grown); r < 0.75 || r > 1.25 {
			t.Errorf("%+v: estimated at %d bytes, the heap has grown by %d", tt, got, grown)
		}
		runtime.KeepAlive(c)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// ownMany has the cache own n keys, one after the other, with keys and values of
// the given sizes.
func ownMany(c *cache, n, key, value int) {
	now := time.Now()
	l := newLease(1, now, time.Hour)
	for i := range n {
		cl, _, _ := c.join(fmt.Sprintf("%0*d", key, i), now)
		c.send([]*claim{cl}, l, math.MaxInt)
		rev := int64(i + 1)
		kv := &mvccpb.KeyValue{Value: make([]byte, value), CreateRevision: 1, ModRevision: 1, Version: 1}
		for _, y := range c.settleClaim(cl, claimReply{outcome: applied, hdr: &etcdserverpb.ResponseHeader{Revision: rev}, kv: kv}, now) {
			c.yielded(y, rev, true)
		}
	}
}

// Keys are given up when they take too much, other than the latest, forgotten
// first (I7). Values count as they are now.
func TestI7EvictionForBytes(t *testing.T) {
	s := newScript(t)
	large := strings.Repeat("x", 300)
	s.c.maxBytes = 2*keyOverhead + 310
	s.play(owning("a", 5) + owning("b", 6) + `
		read a                  => v@3 5
		begin W b               => b@6
		applied W @7 b=` + large + `@7           # they just fit
		read a                  => v@3 5
		begin X b               => b@6
		applied X @8 b=v@8                       # it is small again
		join C c                => begun sharing
		send C
		granted C @9 ` + large + `@4 => yield b@6
		read b                  => ?
		read a                  => v@3 5
	`)
	if s.c.count.evictions.Load() != 1 {
		t.Errorf("%d evictions are counted, want 1", s.c.count.evictions.Load())
	}
}

// A key that would not fit if it were the only one goes to those who read it, and
// is not claimed again at once. Others stay.
func TestTooLargeIsServedAndNotKept(t *testing.T) {
	s := newScript(t)
	large := strings.Repeat("x", 300)
	s.c.maxBytes = 2*keyOverhead + 10
	s.play(owning("a", 5) + `
		join C k                => begun sharing
		send C
		granted C @6 ` + large + `@4 => yield k@6
		facts C                 => ` + large + `@4 6
		read k                  => ?
		join D k                => no
		yielded k@6
		state k                 => idle rests=10s
		join D k                => no
		read a                  => v@3 5
		wait 10s
		join D k                => begun sharing
		send D
		granted D @9 v@8
		read k                  => v@8 9
		begin W k               => k@9
		applied W @10 k=` + large + `@10 => yield k@9
		read a                  => v@3 5
	`)
	if s.c.count.evictions.Load() != 2 {
		t.Errorf("%d evictions are counted, want both of k", s.c.count.evictions.Load())
	}
}

// Keys that are too large to be kept are remembered for a while, and no more of them than
// of others that are not owned.
func TestTooLargeIsForgotten(t *testing.T) {
	c := newCache(10)
	c.maxBytes = keyOverhead / 2 // so that any key is
	start := time.Now()
	l := newLease(1, start, 10_000*time.Hour)
	read := func(i int, now time.Time) {
		cl, _, _ := c.join(fmt.Sprint("k", i), now)
		c.send([]*claim{cl}, l, math.MaxInt)
		hdr := &etcdserverpb.ResponseHeader{Revision: int64(i + 2)}
		for _, y := range c.settleClaim(cl, claimReply{outcome: applied, hdr: hdr}, now) {
			c.yielded(y, hdr.Revision, true)
		}
	}
	for i := range maxAging + 1000 {
		read(i, start)
	}
	if n := c.entries.n; n > maxAging+1 {
		t.Errorf("%d keys are remembered", n)
	}
	for i := range maxAging / 3 {
		read(-i-1, start.Add(time.Hour))
	}
	if n := c.entries.n; n > maxAging/3 {
		t.Errorf("%d keys are remembered, of which %d were read within the hour", n, maxAging/3)
	}
}

// MaxBytes bounds what is owned, here and in etcd; MaxKeys does so besides.
func TestMaxBytes(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want int
	}{
		{Config{MaxBytes: 10 * (keyOverhead + 1000)}, 9}, // the keys count, too
		{Config{MaxBytes: 10 * (keyOverhead + 1000), MaxKeys: 4}, 4},
		{Config{MaxBytes: keyOverhead + 1}, 0},
	} {
		onRigOf(t, tt.cfg, func(t *testing.T, r *rig) {
			value := strings.Repeat("v", 1000)
			for i := range 30 {
				key := fmt.Sprintf("k%0*d", smallKey, i)
				if _, err := r.kv.Put(t.Context(), key, value); err != nil {
					t.Fatal(err)
				}
				resp, err := r.kv.Do(t.Context(), clientv3.OpGet(key))
				if err != nil || string(resp.Get().Kvs[0].Value) != value {
					t.Fatalf("%s: %v, %v", key, resp, err)
				}
				r.get(key)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			claims := r.claims()
			if len(claims) != tt.want {
				t.Errorf("%+v: %d claims, want %d", tt.cfg, len(claims), tt.want)
			}
			r.wantOwned(claims...)
		})
	}
}

// A key that is too large to be kept costs one claim now and then, and plain
// reads besides.
func TestTooLargeIsReadPlainly(t *testing.T) {
	onRigOf(t, Config{MaxBytes: 1000}, func(t *testing.T, r *rig) {
		if _, err := r.kv.Put(t.Context(), "k", strings.Repeat("v", 1000)); err != nil {
			t.Fatal(err)
		}
		r.get("k")
		time.Sleep(time.Second)
		before := r.conn.Sent()
		for range 10 {
			r.get("k")
		}
		after := r.conn.Sent()
		if txns, reads := after[memetcd.MethodTxn]-before[memetcd.MethodTxn], after[memetcd.MethodRange]-before[memetcd.MethodRange]; txns != 0 || reads != 10 {
			t.Errorf("10 reads took %d transactions and %d reads", txns, reads)
		}
		if claims := r.claims(); len(claims) != 0 {
			t.Errorf("claims of %q", claims)
		}
	})
}
