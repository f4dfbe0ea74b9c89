package leasing_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// What an operator does to claims and leases by hand is noticed as soon as the
// watch tells.
func TestI9OperatorIsNoticedWithinTheWatchDelay(t *testing.T) {
	const delay = 200 * time.Millisecond
	for name, meddle := range map[string]func(c *cluster){
		"lease revoked": func(c *cluster) {
			c.root.Revoke(c.t.Context(), clientv3.LeaseID(c.claim("k").Lease))
		},
		"claim deleted":     func(c *cluster) { c.root.Delete(c.t.Context(), "claims/k") },
		"all claims gone":   func(c *cluster) { c.root.Delete(c.t.Context(), "claims/", clientv3.WithPrefix()) },
		"claim asked back":  func(c *cluster) { c.root.Put(c.t.Context(), "claims/k", "REVOKE", clientv3.WithIgnoreLease()) },
		"deleted and taken": func(c *cluster) { c.root.Delete(c.t.Context(), "claims/k"); c.root.Put(c.t.Context(), "claims/k", "") },
	} {
		t.Run(name, func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				a := c.open("a", time.Minute)
				a.put("k", "old")
				a.own("k")
				a.conn.DelayWatch(delay)
				meddle(c)
				start := time.Now()
				c.root.Put(t.Context(), "k", "new") // without leave
				last := start
				for ; time.Since(start) < 2*delay; time.Sleep(trip) {
					if v, ok := a.local("k"); ok && v == "old" {
						last = time.Now()
					}
				}
				if d := last.Sub(start); d < delay/2 || d > delay+trip {
					t.Errorf("noticed after %v", d)
				}
				want(t, "read", a.get("k"), "new")
			})
		})
	}
}

// denyWatch refuses reads of the whole prefix, and so the watch on it.
func denyWatch(key, end []byte, write bool) bool {
	return !write && len(end) > 0 && strings.HasPrefix(string(key), claimPrefix)
}

// Invariant: I14. Without the watch nothing is claimed. All the rest works.
func TestI14WatchIsRefusedFromTheStart(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		b := c.open("b", time.Minute)
		b.own("owned")
		a := c.client("a")
		a.conn.Deny(denyWatch)
		if d := took(func() { a.start(time.Minute) }); d > time.Second {
			t.Errorf("opened after %v", d)
		}
		defer a.Close()
		a.put("k", "v")
		a.put("owned", "v") // slower, but it works
		for range 10 {
			want(t, "cost of a read", a.cost(func() { want(t, "read", a.get("k"), "v") }), "Range=1")
		}
		want(t, "cost of a put", a.cost(func() { a.put("k", "w") }), "Txn=1")
		time.Sleep(time.Hour)
		want(t, "claims", len(c.claims()), 0)
		if n := a.conn.Sent()[memetcd.MethodWatch]; n > 1000 {
			t.Errorf("the watch was tried %d times in an hour", n)
		}
		a.conn.Deny(nil)
		time.Sleep(10 * time.Second)
		a.own("k")
	})
}

// Invariant: I14. If the watch is refused later, everything is given back.
func TestI14WatchIsRefusedLater(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		a.own("k1", "k2", "k3")
		a.conn.Deny(denyWatch)
		a.conn.Reset() // the watch is set up anew
		time.Sleep(time.Second)
		want(t, "claims", len(c.claims()), 0)
		want(t, "cost of a read", a.cost(func() { a.get("k1") }), "Range=1")
		want(t, "cost of another's put", b.cost(func() { b.put("k1", "v") }), "Txn=1")
		time.Sleep(time.Minute)
		want(t, "claims", len(c.claims()), 0)
		a.conn.Deny(nil)
		time.Sleep(10 * time.Second)
		a.own("k1")
	})
}

// Invariant: I14. A watch that says nothing while renewals succeed is as good
// as none: its owner could not be asked. Everything is given back.
func TestI14WatchIsSilentWhileRenewalsSucceed(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(ttl)
		a.own("k")
		before := c.claim("k").CreateRevision
		a.conn.DelayWatch(time.Hour)
		d := took(func() { b.put("k", "v") })
		if d > 30*time.Second {
			t.Errorf("another's write waited for %v", d)
		}
		if d < ttl {
			t.Errorf("another's write went through after %v: by what?", d)
		}
		want(t, "read", a.get("k"), "v")
		if now := c.claim("k").CreateRevision; now == before {
			t.Error("the claim is still there")
		}
	})
}

// Invariant: I14. With the server away altogether nothing is given back before
// the deadline (there is nobody to give it to), and it goes on afterwards.
func TestI14ShortOutageCostsNothing(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k")
		before := c.claim("k").CreateRevision
		a.conn.Cut(memetcd.Both)
		for range 40 {
			if !a.serves("k") {
				t.Fatal("not served while the server is away")
			}
			time.Sleep(time.Second)
		}
		a.conn.Heal()
		time.Sleep(time.Minute)
		if !a.serves("k") || c.claim("k").CreateRevision != before {
			t.Error("the key was given back")
		}
	})
}

// Invariant: I14. A watch that missed something because of a compaction lists
// the claims before it goes on, and answers the REVOKEs that it missed.
func TestI14GapInTheWatch(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		a.own("asked", "gone", "kept")
		a.put("kept", "v")
		kept := c.claim("kept").CreateRevision
		var mu sync.Mutex
		var calls []string
		a.conn.Intercept(func(ctx context.Context, call *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
			what := ""
			switch r := call.Request.(type) {
			case *pb.RangeRequest:
				what = "list " + string(r.Key)
			case *pb.WatchRequest:
				what = "watch " + string(r.GetCreateRequest().GetKey())
			}
			mu.Lock()
			calls = append(calls, what)
			mu.Unlock()
			return do(ctx)
		})
		a.conn.Cut(memetcd.Both)
		a.conn.Reset()
		var done time.Time
		var wg sync.WaitGroup
		wg.Go(func() {
			b.put("asked", "new") // waits for a
			done = time.Now()
		})
		time.Sleep(time.Second)
		c.root.Delete(t.Context(), "claims/gone")
		c.root.Put(t.Context(), "gone", "new")
		c.root.Put(t.Context(), "x", "x")
		if err := c.srv.Compact(c.srv.Revision()); err != nil {
			t.Fatal(err)
		}
		if !a.serves("asked") || !a.serves("gone") {
			t.Error("the test is wrong: nothing was owned across the gap")
		}
		healed := time.Now()
		a.conn.Heal()
		wg.Wait()
		if d := done.Sub(healed); d > 3*time.Second {
			t.Errorf("the REVOKE was answered after %v", d)
		}
		time.Sleep(time.Second)
		want(t, "read", a.get("asked"), "new")
		want(t, "read", a.get("gone"), "new")
		want(t, "read", a.get("kept"), "v")
		want(t, "grant of what nobody touched", c.claim("kept").CreateRevision, kept)
		mu.Lock()
		defer mu.Unlock()
		calls = slices.DeleteFunc(calls, func(s string) bool { return !strings.HasSuffix(s, " claims/") })
		if got := strings.Join(calls, ", "); got != "watch claims/, list claims/, watch claims/" {
			t.Errorf("the watch fails, then they are listed, then it goes on? %s", got)
		}
	})
}

// With the server away for an hour, a KV sends little, and is there again
// soon after. It ends without leaving anything behind.
func TestServerIsAwayForAnHour(t *testing.T) {
	for name, outage := range map[string]struct{ begin, end func(c *cluster, a *peer) }{
		"cut off": {
			func(_ *cluster, a *peer) { a.conn.Cut(memetcd.Both) },
			func(_ *cluster, a *peer) { a.conn.Heal() },
		},
		"no leader": {
			func(c *cluster, _ *peer) { c.srv.LoseLeader() },
			func(c *cluster, _ *peer) { c.srv.ElectLeader() },
		},
		"refusing": {
			func(_ *cluster, a *peer) {
				a.conn.Intercept(func(ctx context.Context, call *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
					if call.Method == memetcd.MethodLeaseKeepAlive || call.Method == memetcd.MethodWatch {
						return nil, memetcd.ErrLost // etcd's client itself would send it over and over again
					}
					return nil, status.Error(codes.Unavailable, "away")
				})
				a.conn.Reset()
			},
			func(_ *cluster, a *peer) {
				a.conn.Intercept(nil)
				a.conn.Reset() // a stream whose message was lost is of no use: etcd's client sends no more on it
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				a := c.open("a", ttl)
				a.put("k", "v")
				a.own("k")
				outage.begin(c, a)
				time.Sleep(time.Minute)
				before := a.conn.Sent()
				time.Sleep(time.Hour)
				total := 0
				for m, n := range a.conn.Sent() {
					total += n - before[m]
				}
				if total > 3600 {
					t.Errorf("%d requests in an hour: %v, after %v", total, a.conn.Sent(), before)
				}
				outage.end(c, a)
				time.Sleep(15 * time.Second)
				want(t, "read", a.get("k"), "v")
				a.own("k")
			})
		})
	}
}

// A KV is closed within 3 s with the server away, in whatever way.
func TestCloseIsBoundedWithTheServerAway(t *testing.T) {
	for name, begin := range map[string]func(c *cluster, a *peer){
		"cut off":        func(_ *cluster, a *peer) { a.conn.Cut(memetcd.Both) },
		"replies are":    func(_ *cluster, a *peer) { a.conn.Cut(memetcd.Replies) },
		"no leader":      func(c *cluster, _ *peer) { c.srv.LoseLeader() },
		"for long":       func(_ *cluster, a *peer) { a.conn.Cut(memetcd.Both); time.Sleep(time.Hour) },
		"and back again": func(_ *cluster, a *peer) { a.conn.Cut(memetcd.Both); time.Sleep(time.Hour); a.conn.Heal() },
	} {
		t.Run(name, func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				a := c.open("a", ttl)
				a.own("k")
				begin(c, a)
				go a.Get(within(t, time.Minute), "other") // a claim is under way
				time.Sleep(trip)
				if d := took(func() { a.Close() }); d > 3*time.Second {
					t.Errorf("closed after %v", d)
				}
			})
		})
	}
}

// A claim that an operator has put over hangs on no lease any more, so that
// nothing but its owner will ever take it away. It is given back when it is
// asked for.
func TestI9ClaimThatWasOverwritten(t *testing.T) {
	for _, value := range []string{"", "something", "REVOKE"} {
		t.Run(fmt.Sprintf("%q", value), func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				a, b := c.pair(ttl)
				a.own("k")
				c.root.Put(t.Context(), "claims/k", value)
				ctx := within(t, time.Minute)
				if _, err := b.Put(ctx, "k", "new"); err != nil {
					t.Fatalf("nobody can write the key any more: %v", err)
				}
				want(t, "read", a.get("k"), "new")
			})
		})
	}
}
