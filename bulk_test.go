package leasing_test

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

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// openOf is open with what cfg says besides.
func (c *cluster) openOf(name string, cfg leasing.Config) *peer {
	c.t.Helper()
	p := c.client(name)
	cfg.Prefix, cfg.TTL = claimPrefix, time.Minute
	kv, err := leasing.New(within(c.t, time.Minute), p.cl, cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	p.KV = kv
	c.kvs = append(c.kvs, p)
	return p
}

// fill puts n keys that begin with prefix, and returns them in order.
func (c *cluster) fill(prefix string, n int) []string {
	c.t.Helper()
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s%06d", prefix, i)
	}
	for part := range slices.Chunk(keys, 100) {
		var ops []clientv3.Op
		for _, k := range part {
			ops = append(ops, clientv3.OpPut(k, "v"))
		}
		if _, err := c.root.Txn(c.t.Context()).Then(ops...).Commit(); err != nil {
			c.t.Fatal(err)
		}
	}
	return keys
}

func (p *peer) prefetch(wanted int, key string, opts ...clientv3.OpOption) {
	p.t.Helper()
	n, err := p.Prefetch(within(p.t, time.Minute), key, opts...)
	if n != wanted || err != nil {
		p.t.Errorf("%s: prefetched %q: %d owned, %v; want %d", p.conn.Name(), key, n, err, wanted)
	}
}

func (p *peer) release(keys ...string) {
	p.t.Helper()
	if err := p.Release(within(p.t, time.Minute), keys...); err != nil {
		p.t.Errorf("%s: release: %v", p.conn.Name(), err)
	}
}

// owns counts those of keys that p owns, as it says.
func (p *peer) owns(keys ...string) (n int) {
	for _, k := range keys {
		if p.Owned(k) {
			n++
		}
	}
	return n
}

func TestOwned(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		check := func(when string, p *peer, owned bool) {
			t.Helper()
			want(t, when, p.Owned("k"), owned)
		}
		check("at first", a, false)
		want(t, "cost", a.cost(func() { a.Owned("k") }), "")
		a.own("k")
		check("after a read", a, true)
		check("another's", b, false)
		f := a.meet(replyHeld, writesOf("k"))
		var wg sync.WaitGroup
		wg.Go(func() { a.put("k", "v") })
		time.Sleep(3 * trip)
		check("while it is written", a, false)
		close(f.release)
		wg.Wait()
		check("once it has been", a, true)
		b.put("k", "w")
		check("after it was asked for", a, false)
		time.Sleep(10 * time.Second) // it rests
		b.own("k")
		b.conn.Cut(memetcd.Both)
		time.Sleep(time.Minute)
		check("when the lease is over", b, false)
		b.conn.Heal()
		time.Sleep(time.Minute)
		b.own("k")
		b.Close()
		check("after Close", b, false)
	})
}

// Two listings and full batches: the loops never wait for claims to come.
func TestPrefetchCosts(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		const keys = 10_000
		a := c.open("a", time.Minute)
		all := c.fill("k/", keys)
		c.fill("l/", 10)
		var d time.Duration
		n := a.cost(func() {
			d = took(func() { a.prefetch(keys, "k/", clientv3.WithPrefix()) })
		})
		// 64 claims in each, but for those that begin or end a lease.
		if !strings.HasPrefix(n, "Range=2 Txn=1") || len(n) != len("Range=2 Txn=167") || n > "Range=2 Txn=180" {
			t.Errorf("cost: %s", n)
		}
		if d > 200*trip { // two batches in two trips
			t.Errorf("it took %v", d)
		}
		want(t, "owned", a.owns(all...), keys)
		want(t, "claims", len(c.claims()), keys)
		want(t, "cost of reading them", a.cost(func() {
			for _, k := range all {
				a.get(k)
			}
		}), "")
		want(t, "cost of doing it again", a.cost(func() { a.prefetch(keys, "k/", clientv3.WithPrefix()) }), "Range=2")
	})
}

func TestPrefetchRanges(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		keys := c.fill("k", 8)
		for _, step := range []struct {
			key   string
			opts  []clientv3.OpOption
			owned []int
		}{
			{keys[1], nil, []int{1}},
			{"k", nil, nil}, // it does not exist
			{keys[1], []clientv3.OpOption{clientv3.WithRange(keys[3])}, []int{1, 2}},
			{keys[6], []clientv3.OpOption{clientv3.WithFromKey()}, []int{6, 7}},
			{"k", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(3)}, []int{0, 1, 2}},
			{"k", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(100)}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
			{"", []clientv3.OpOption{clientv3.WithPrefix()}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
			{keys[4], []clientv3.OpOption{clientv3.WithRange(keys[2])}, nil},
		} {
			a.prefetch(len(step.owned), step.key, step.opts...)
			var claimed []string
			for _, i := range step.owned {
				claimed = append(claimed, claimPrefix+keys[i])
			}
			var found []string
			for _, kv := range c.claims() {
				found = append(found, string(kv.Key))
			}
			if !slices.Equal(found, claimed) {
				t.Errorf("%q: claims are %q, want %q", step.key, found, claimed)
			}
			a.release(keys...)
		}
	})
}

func TestPrefetchArguments(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		for what, opts := range map[string][]clientv3.OpOption{
			"rev":          {clientv3.WithRev(1)},
			"count only":   {clientv3.WithPrefix(), clientv3.WithCountOnly()},
			"sort":         {clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)},
			"serializable": {clientv3.WithSerializable()},
			"last":         clientv3.WithLastKey(),
			"lease":        {clientv3.WithLease(1)},
			"two ranges":   {clientv3.WithPrefix(), clientv3.WithFromKey()},
			"limit":        {clientv3.WithLimit(-1)},
		} {
			n := a.cost(func() {
				if owned, err := a.Prefetch(t.Context(), "k", opts...); owned != 0 || err == nil || !strings.Contains(err.Error(), "Prefetch") {
					t.Errorf("%s: %d, %v", what, owned, err)
				}
			})
			want(t, what+": cost", n, "")
		}
		if _, err := a.Prefetch(t.Context(), ""); !errors.Is(err, rpctypes.ErrEmptyKey) {
			t.Errorf("empty key: %v", err)
		}
		a.Close()
		if _, err := a.Prefetch(t.Context(), "k"); !errors.Is(err, leasing.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if err := a.Release(t.Context(), "k"); !errors.Is(err, leasing.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// What is not to be had: others' keys, whether that is known or not, keys that rest,
// and keys that carry a lease.
func TestPrefetchTakesNothingAway(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		keys := c.fill("k", 300)
		lease, err := c.root.Grant(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.root.Put(t.Context(), keys[5], "v", clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
		a.own(keys[10])
		b.put(keys[10], "w") // it rests
		a.own(keys[1])
		time.Sleep(10 * trip)
		a.conn.DelayWatch(time.Second)
		b.conn.DelayWatch(time.Second)
		a.own(keys[2]) // b does not know yet
		n := b.cost(func() { b.prefetch(296, "k", clientv3.WithPrefix()) })
		if n > "Range=1 Txn=8" {
			t.Errorf("cost: %s", n)
		}
		for i, k := range keys {
			if slices.Contains([]int{1, 2, 5, 10}, i) == b.Owned(k) {
				t.Errorf("%q owned: %v", k, b.Owned(k))
			}
		}
		want(t, "the other's", a.owns(keys[1], keys[2]), 2)
		time.Sleep(time.Second)
		want(t, "the other's", a.owns(keys[1], keys[2]), 2)
	})
}

// Invariant I13: the claim prefix holds no data.
func TestI13PrefetchLeavesClaimsOut(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		keys := append(c.fill("a", 2), c.fill("z", 2)...)
		b.own("other")
		for range 2 {
			a.prefetch(4, "\x00", clientv3.WithFromKey())
			want(t, "owned", a.owns(keys...), 4)
			want(t, "claims", len(c.claims()), 5)
		}
		a.prefetch(0, claimPrefix, clientv3.WithPrefix())
		a.prefetch(0, claimPrefix+"other")
		a.prefetch(3, "", clientv3.WithPrefix(), clientv3.WithLimit(3))
		want(t, "claims", len(c.claims()), 5)
	})
}

// It ends when as many keys are owned as may be, and gives none up for others.
func TestPrefetchStopsAtMaxKeys(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.openOf("a", leasing.Config{MaxKeys: 1000})
		keys := c.fill("k", 6000)
		a.own("mine", "too")
		n := a.cost(func() { a.prefetch(998, "k", clientv3.WithPrefix()) })
		if n != "Range=1 Txn=16" && n != "Range=1 Txn=17" {
			t.Errorf("cost: %s", n)
		}
		want(t, "owned", a.owns(keys[:998]...), 998)
		want(t, "owned before", a.owns("mine", "too"), 2)
		want(t, "claims", len(c.claims()), 1000)
		want(t, "cost of doing it again", a.cost(func() { a.prefetch(998, "k", clientv3.WithPrefix()) }), "Range=1")
	})
}

// Claims that fail leave room for others: MaxKeys is made use of.
func TestPrefetchUsesTheRoomThatIsLeft(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.openOf("a", leasing.Config{MaxKeys: 100}), c.open("b", time.Minute)
		keys := c.fill("k", 300)
		a.own("warm")
		a.release("warm")
		a.conn.DelayWatch(time.Minute)
		b.prefetch(80, "k", clientv3.WithPrefix(), clientv3.WithLimit(80))
		a.prefetch(100, "k", clientv3.WithPrefix())
		want(t, "owned", a.owns(keys[80:180]...), 100)
	})
}

// Keys come and go while they are listed.
func TestPrefetchWhileKeysAreDeleted(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		keys := c.fill("k", 5200)
		pages := 0
		a.conn.Intercept(func(ctx context.Context, call *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
			r, err := do(ctx)
			if call.Method == memetcd.MethodRange {
				if pages++; pages == 1 {
					for _, k := range []string{keys[10], keys[4999], keys[5100]} { // of the first page, its last, of the next
						_, _ = c.root.Delete(ctx, k)
					}
				}
			}
			return r, err
		})
		a.prefetch(5199, "k", clientv3.WithPrefix())
		want(t, "pages", pages, 2)
		want(t, "a key that is gone", a.get(keys[10]), "-")
		want(t, "one that was not listed", a.Owned(keys[5100]), false)
	})
}

// Its context ends while claims are under way. They go through, and no others.
func TestPrefetchEndsWithItsContext(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		keys := c.fill("k", 3000)
		ctx, cancel := context.WithTimeout(t.Context(), 15*trip)
		defer cancel()
		var n int
		var err error
		d := took(func() { n, err = a.Prefetch(ctx, "k", clientv3.WithPrefix()) })
		if !errors.Is(err, context.DeadlineExceeded) || n < 128 || n > 1000 || d != 15*trip {
			t.Errorf("%d owned after %v: %v", n, d, err)
		}
		time.Sleep(time.Second)
		if later := a.owns(keys...); later <= n || later > n+400 {
			t.Errorf("%d owned when it returned, and %d later", n, later)
		}
		if _, err := a.Prefetch(ctx, "k", clientv3.WithPrefix()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a context that is over: %v", err)
		}
	})
}

func TestPrefetchEndsWithClose(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		c.fill("k", 3000)
		var wg sync.WaitGroup
		wg.Go(func() {
			if n, err := a.Prefetch(t.Context(), "k", clientv3.WithPrefix()); n != 0 || !errors.Is(err, leasing.ErrClosed) {
				t.Errorf("%d owned: %v", n, err)
			}
		})
		time.Sleep(15 * trip)
		a.Close()
		wg.Wait()
		want(t, "claims", len(c.claims()), 0)
	})
}

// The session is lost in the middle: it goes on when there is one again.
func TestPrefetchGoesOnAfterAnOutage(t *testing.T) {
	for name, harm := range map[string]func(c *cluster, a *peer){
		"the link is cut": func(_ *cluster, a *peer) {
			a.conn.Cut(memetcd.Both)
			time.Sleep(3 * time.Second)
			a.conn.Heal()
		},
		"connections break": func(_ *cluster, a *peer) { a.conn.Reset() },
		"the leases are revoked": func(c *cluster, _ *peer) {
			all, err := c.root.Leases(c.t.Context())
			if err != nil {
				c.t.Error(err)
				return
			}
			for _, l := range all.Leases {
				_, _ = c.root.Revoke(c.t.Context(), l.ID)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				a := c.open("a", time.Minute)
				keys := c.fill("k", 3000)
				var n int
				var err error
				var wg sync.WaitGroup
				wg.Go(func() { n, err = a.Prefetch(within(t, time.Minute), "k", clientv3.WithPrefix()) })
				time.Sleep(15 * trip)
				harm(c, a)
				wg.Wait()
				want(t, "error", err, nil)
				want(t, "reported", n, a.owns(keys...))
				if name != "the leases are revoked" { // what was claimed by then is lost
					want(t, "owned", n, len(keys))
				}
				time.Sleep(10 * time.Second)
				want(t, "claims", len(c.claims()), n)
			})
		})
	}
}

// Claims that cannot be made: an error says so, at once if it is for good.
func TestPrefetchWithoutASession(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		c.fill("k", 100)
		a := c.open("a", time.Minute)
		a.conn.Intercept(func(ctx context.Context, call *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
			if call.Method == memetcd.MethodTxn {
				return nil, memetcd.ErrLost
			}
			return do(ctx)
		})
		try := func(p *peer, why string, most time.Duration) {
			t.Helper()
			d := took(func() {
				n, err := p.Prefetch(within(t, time.Minute), "k", clientv3.WithPrefix())
				if n != 0 || err == nil || !strings.Contains(err.Error(), why) {
					t.Errorf("%d owned: %v", n, err)
				}
			})
			if d > most {
				t.Errorf("it took %v to say so", d)
			}
		}
		try(a, "claims fail", 11*time.Second)
		a.conn.Intercept(nil)

		b := c.client("b")
		b.conn.Deny(func(key, _ []byte, _ bool) bool { return strings.HasPrefix(string(key), claimPrefix) })
		b.start(time.Minute)
		c.kvs = append(c.kvs, b)
		try(b, "refuses the watch", 5*trip)

		life, end := context.WithCancel(t.Context())
		d := c.client("d")
		kv, _, err := leasing.NewKV(d.cl, claimPrefix, concurrency.WithContext(life))
		if err != nil {
			t.Fatal(err)
		}
		d.KV = kv.(*leasing.KV)
		c.kvs = append(c.kvs, d)
		end()
		synctest.Wait()
		try(d, "has ended", 5*trip)
	})
}

// No rights on the claims of some keys: the others are claimed.
func TestPrefetchWithoutRightsOnSomeClaims(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		keys := c.fill("k", 1000)
		a.conn.Deny(func(key, _ []byte, write bool) bool { return write && string(key) == claimPrefix+keys[300] })
		a.prefetch(999, "k", clientv3.WithPrefix())
		want(t, "owned", a.Owned(keys[300]), false)
	})
}

func TestReleaseCosts(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		const keys = 3000
		a, b := c.pair(time.Minute)
		all := c.fill("k", keys)
		a.prefetch(keys, "k", clientv3.WithPrefix())
		a.own("kept")
		var d time.Duration
		n := a.cost(func() { d = took(func() { a.release(all...) }) })
		want(t, "cost", n, "Txn=30")
		if d > 32*trip {
			t.Errorf("it took %v", d)
		}
		want(t, "owned", a.owns(all...), 0)
		want(t, "kept", a.Owned("kept"), true)
		want(t, "claims", len(c.claims()), 1)
		want(t, "cost of somebody's put", b.cost(func() { b.put(all[7], "w") }), "Txn=1")
		want(t, "cost of the next read", a.cost(func() { want(t, "it", a.get(all[7]), "w") }), "Txn=1") // it does not rest
		want(t, "owned again", a.Owned(all[7]), true)
		want(t, "cost of what is not owned", a.cost(func() { a.release(append(all[8:20], claimPrefix+"kept", "", "none")...) }), "")
		want(t, "cost of nothing", a.cost(func() { a.release() }), "")
		want(t, "cost of one key twice", a.cost(func() { a.release("kept", "kept") }), "Txn=1")
	})
}

// A claim is under way: the key is given back once it is there. Its reader gets its
// answer.
func TestReleaseOfAKeyThatIsBeingClaimed(t *testing.T) {
	for _, harm := range []string{requestHeld, replyHeld} {
		t.Run(harm, func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				a := c.open("a", time.Minute)
				c.fill("k", 1)
				key := "k000000"
				f := a.meet(harm, writesOf(claimPrefix+key))
				var wg sync.WaitGroup
				wg.Go(func() { want(t, "its reader", a.get(key), "v") })
				time.Sleep(5 * trip)
				released := false
				wg.Go(func() { a.release(key); released = true })
				time.Sleep(20 * trip)
				want(t, "released before the claim is settled", released, false)
				close(f.release)
				wg.Wait()
				want(t, "claims", len(c.claims()), 0)
				want(t, "owned", a.Owned(key), false)
				a.own(key)
			})
		})
	}
}

// A claim that turns out to be another's, or whose reply is lost.
func TestReleaseOfAKeyThatIsNotClaimedAfterAll(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		a.conn.DelayWatch(time.Second)
		b.own("theirs")
		var wg sync.WaitGroup
		wg.Go(func() { a.get("theirs") })
		time.Sleep(trip / 2)
		d := took(func() { a.release("theirs") })
		want(t, "duration", d, 2*trip-trip/2)
		wg.Wait()
		want(t, "the other's", b.Owned("theirs"), true)

		a.meet(replyLost, writesOf(claimPrefix+"lost"))
		wg.Go(func() { a.get("lost") })
		time.Sleep(trip / 2)
		a.release("lost")
		wg.Wait()
		want(t, "claim", c.claim("lost").CreateRevision, 0)
	})
}

// A write is under way: it is applied once, and the key is given back all the same.
func TestReleaseOfAKeyThatIsBeingWritten(t *testing.T) {
	for _, harm := range []string{requestHeld, replyHeld} {
		t.Run(harm, func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				a := c.open("a", time.Minute)
				a.own("k")
				puts := c.puts("k")
				f := a.meet(harm, writesOf("k"))
				var wg sync.WaitGroup
				wg.Go(func() { a.put("k", "v") })
				time.Sleep(3 * trip)
				a.release("k")
				want(t, "claims", len(c.claims()), 0)
				close(f.release)
				wg.Wait()
				want(t, "value", c.value("k"), "v")
				want(t, "puts", puts(), 1)
				want(t, "owned", a.Owned("k"), false)
				a.own("k")
				want(t, "read", a.get("k"), "v")
			})
		})
	}
}

// Whoever waits no longer, or cannot be told: the keys are given back in the
// background.
func TestReleaseEndsWithItsContext(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k", "j")
		f := a.meet(requestHeld, writesOf(claimPrefix+"slow"))
		var wg sync.WaitGroup
		wg.Go(func() { a.get("slow") })
		time.Sleep(5 * trip)
		ctx, cancel := context.WithTimeout(t.Context(), trip)
		defer cancel()
		for _, keys := range [][]string{{"k"}, {"slow"}} {
			if err := a.Release(ctx, keys...); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			want(t, "owned", a.owns(keys...), 0)
		}
		if err := a.Release(ctx, "j"); !errors.Is(err, context.DeadlineExceeded) { // it is over already
			t.Error(err)
		}
		close(f.release)
		wg.Wait()
		time.Sleep(10 * trip)
		want(t, "claims", len(c.claims()), 0)
	})
}

func TestReleaseEndsWithClose(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k")
		a.conn.Cut(memetcd.Requests)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := a.Release(t.Context(), "k"); !errors.Is(err, leasing.ErrClosed) {
				t.Error(err)
			}
		})
		time.Sleep(10 * trip)
		a.Close()
		wg.Wait()
	})
}

// It returns when etcd has confirmed it, however long that takes.
func TestReleaseWaitsForItsConfirmation(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k")
		a.conn.Cut(memetcd.Replies)
		done := false
		var wg sync.WaitGroup
		wg.Go(func() { a.release("k"); done = true })
		time.Sleep(5 * time.Second)
		want(t, "done before anything is confirmed", done, false)
		a.conn.Heal()
		wg.Wait()
		want(t, "claims", len(c.claims()), 0)
	})
}

// Prefetch, Release, reads and writes at the same time, by two KVs. It is for the
// race detector, and for what is left in the end: nothing that anybody waits for.
func TestPrefetchAndReleaseTogether(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		keys := c.fill("k", 200)
		ctx := within(t, time.Minute)
		var wg sync.WaitGroup
		for i, p := range []*peer{a, a, b} {
			wg.Go(func() {
				for j := range 10 {
					if n, err := p.Prefetch(ctx, "k", clientv3.WithPrefix()); err != nil || n > len(keys) {
						t.Errorf("%d owned: %v", n, err)
					}
					time.Sleep(time.Duration(i+j) * trip)
				}
			})
			wg.Go(func() {
				for j := range 10 {
					if err := p.Release(ctx, keys[10*j:]...); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Duration(2*j) * trip)
				}
			})
			wg.Go(func() {
				for j := range 40 {
					p.get(keys[(i*97+j*31)%len(keys)])
					p.put(keys[(i*89+j*17)%len(keys)], "w")
				}
			})
		}
		wg.Wait()
		time.Sleep(10 * time.Second) // they have rested
		a.release(keys...)
		b.release(keys...)
		want(t, "claims", len(c.claims()), 0)
		a.prefetch(len(keys), "k", clientv3.WithPrefix())
		want(t, "claims", len(c.claims()), len(keys))
	})
}
