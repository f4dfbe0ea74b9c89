package leasing

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etcd-leasing/leasing/internal/memetcd"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// MaxKeys bounds what is owned, here and in etcd. Keys that are read again and
// again are kept.
func TestMaxKeys(t *testing.T) {
	onRigOf(t, Config{MaxKeys: 4}, func(t *testing.T, r *rig) {
		for i := range 20 {
			r.get("hot")
			r.get(fmt.Sprint("cold", i))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		claims := r.claims()
		if len(claims) != 4 || !slices.Contains(claims, "hot") {
			t.Errorf("claims of %q, not of hot and three others", claims)
		}
		r.wantOwned(claims...)
		before := r.sent()
		r.get("hot")
		if n := r.sent() - before; n != 0 {
			t.Errorf("a read of an owned key took %d requests", n)
		}
	})
}

// The bounds hold also while all that is owned is being written, and so is not given up.
func TestMaxKeysWhileTheyAreWritten(t *testing.T) {
	onRigOf(t, Config{MaxKeys: 2, MaxBytes: 2 * (keyOverhead + 10)}, func(t *testing.T, r *rig) {
		stop := make(chan struct{})
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if names(req, "slow") {
				<-stop
			}
			return do(ctx)
		})
		var wg sync.WaitGroup
		for i := range 50 {
			key := fmt.Sprint("k", i)
			r.get(key)
			wg.Go(func() {
				if _, err := r.kv.Put(t.Context(), key, "slow"); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(time.Millisecond)
			if s := r.kv.Stats(); s.Entries > 2 {
				t.Errorf("%d keys are owned, which take %d bytes", s.Entries, s.Bytes)
			}
		}
		close(stop)
		wg.Wait()
	})
}

// Prefetch displaces nothing, though nobody knows how large its keys are until they are
// claimed. It does not claim many in vain.
func TestPrefetchDisplacesNothingUnderMaxBytes(t *testing.T) {
	const room, owned, size = 16, 10, keyOverhead + 1005
	for _, mine := range []int{1000, 1} { // bytes in a value
		var last Event
		displaced := func(e Event) {
			if e.Kind == KeyEvicted && (last.Kind != KeyClaimed || last.Key != e.Key) {
				t.Errorf("beside values of %d bytes: %s goes, which was owned", mine, e.Key)
			}
			if e.Kind != KeyYielded {
				last = e
			}
		}
		onRigOf(t, Config{MaxBytes: room * size, OnEvent: displaced}, func(t *testing.T, r *rig) {
			root := r.srv.NewClient("root")
			fill := func(key string, n int) {
				if _, err := root.Put(t.Context(), key, strings.Repeat("v", n)); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 1000 {
				fill(fmt.Sprintf("k%04d", i), 1000)
			}
			var keys []string
			for i := range owned {
				keys = append(keys, fmt.Sprint("mine", i))
				fill(keys[i], mine)
				r.get(keys[i])
			}
			n, err := r.kv.Prefetch(t.Context(), "k", clientv3.WithPrefix())
			time.Sleep(time.Second)
			r.wantOwned(keys...)
			if err != nil || n < room-owned || n != r.kv.Stats().Entries-owned {
				t.Errorf("beside values of %d bytes: %d keys, %v, and %d are owned", mine, n, err, r.kv.Stats().Entries)
			}
			if made := r.kv.Stats().Claims.Made; made > 100 {
				t.Errorf("beside values of %d bytes: %d claims", mine, made)
			}
		})
	}
}

// More keys are read than are owned at most, so that they come and go all the
// time. A transaction of ours that writes some of them must not wait until by
// chance none of them is being claimed.
func TestEvictionDoesNotStarveTransactions(t *testing.T) {
	for _, keys := range []int{3, 8, 20} {
		t.Run(fmt.Sprint(keys, " keys"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := memetcd.New(memetcd.Options{Latency: 5 * time.Millisecond})
				defer srv.Close()
				kv, err := New(t.Context(), srv.NewClient("kv"), Config{Prefix: "claims/", TTL: rigTTL, MaxKeys: 2})
				if err != nil {
					t.Fatal(err)
				}
				defer kv.Close()
				var done atomic.Bool
				var wg sync.WaitGroup
				for i := range 40 {
					rng := rand.New(rand.NewPCG(uint64(i), 1))
					wg.Go(func() {
						for !done.Load() {
							_, _ = kv.Get(t.Context(), fmt.Sprint("k", rng.IntN(keys)))
							time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
						}
					})
				}
				time.Sleep(time.Second)
				var puts []clientv3.Op
				for i := range keys {
					puts = append(puts, clientv3.OpPut(fmt.Sprint("k", i), "v"))
				}
				for range 3 {
					begin := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					_, err = kv.Txn(ctx).Then(puts...).Commit()
					cancel()
					if d := time.Since(begin); err != nil || d > time.Second {
						t.Errorf("a transaction on %d keys took %v: %v", keys, d, err)
					}
				}
				done.Store(true)
				wg.Wait()
			})
		})
	}
}

// A write that waits for a claim under way keeps its place: nothing is claimed
// on its keys meanwhile, so that it comes next. One that gives up leaves the
// keys as claimable as they were.
//
// Invariant: I8.
func TestI8WriteThatGivesUpLeavesItsPlace(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			resp, err := do(ctx)
			if names(req, "claims/a") {
				time.Sleep(500 * time.Millisecond)
			}
			return resp, err
		})
		go r.kv.Get(t.Context(), "a") // its claim is under way
		time.Sleep(time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		var err error
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err = r.kv.Txn(ctx).Then(clientv3.OpPut("a", "v"), clientv3.OpPut("b", "v")).Commit()
		})
		synctest.Wait()
		r.get("b")
		if claims := r.claims(); slices.Contains(claims, "b") {
			t.Errorf("claimed although a write waits for them: %q", claims)
		}
		cancel()
		wg.Wait()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the write: %v", err)
		}
		time.Sleep(time.Second)
		r.get("b")
		r.wantOwned("a", "b")
	})
}
