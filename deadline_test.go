package leasing_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// The lease of these tests: 10 s, of which the last 1.2 s are not relied on.
// It is renewed every third of the rest.
const (
	ttl   = 10 * time.Second
	lasts = ttl - 1200*time.Millisecond
)

// openedAt is open, and tells when the request for the lease was sent.
func (c *cluster) openedAt(name string) (*peer, time.Time) {
	c.t.Helper()
	var sent time.Time
	p := c.client(name)
	p.conn.Intercept(only(memetcd.MethodLeaseGrant, func(ctx context.Context, _ *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
		sent = time.Now()
		return do(ctx)
	}))
	p.start(ttl)
	p.conn.Intercept(nil)
	c.kvs = append(c.kvs, p)
	return p, sent
}

// lastServed reads key from memory until that fails, and returns when it
// worked for the last time, to a hundredth of a second.
func lastServed(t *testing.T, p *peer, key string) time.Time {
	t.Helper()
	start, last := time.Now(), time.Time{}
	for p.serves(key) {
		last = time.Now()
		if time.Since(start) > time.Hour {
			t.Fatalf("%s is served from memory for an hour", key)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return last
}

// near compares instants that were found to a hundredth of a second.
func near(t *testing.T, what string, got, limit time.Time) {
	t.Helper()
	if d := limit.Sub(got); d <= 0 || d > 20*time.Millisecond {
		t.Errorf("%s: for the last time %v before the deadline", what, d)
	}
}

func TestI2ServesUntilTheDeadlineOfTheGrant(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, granted := c.openedAt("a")
		a.own("k")
		a.conn.Cut(memetcd.Both)
		near(t, "served", lastServed(t, a, "k"), granted.Add(lasts))
	})
}

// Invariant: I2. A renewal counts from its sending, however late its reply.
func TestI2LateReplyToARenewalDoesNotLengthenTheLease(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", ttl)
		a.own("k")
		var sent time.Time
		a.conn.Intercept(keepAlives(func(ctx context.Context, _ *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
			if !sent.IsZero() {
				return nil, memetcd.ErrLost // there is only the one renewal
			}
			sent = time.Now()
			r, err := do(ctx)
			time.Sleep(2 * time.Second)
			return r, err
		}))
		last := lastServed(t, a, "k")
		near(t, "served", last, sent.Add(lasts))
	})
}

// Invariant: I2. A renewal that is answered after the deadline does not count,
// although etcd has renewed the lease: what hung on it is claimed anew.
func TestI2RenewalAfterTheDeadlineDoesNotReviveTheLease(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, granted := c.openedAt("a")
		a.own("k")
		old := c.claim("k")
		var replied atomic.Bool
		a.conn.Intercept(keepAlives(func(ctx context.Context, _ *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
			if time.Since(granted) < lasts/2 {
				return nil, memetcd.ErrLost
			}
			r, err := do(ctx)
			time.Sleep(time.Until(granted.Add(lasts + 200*time.Millisecond)))
			replied.Store(ctx.Err() == nil)
			return r, err
		}))
		near(t, "served", lastServed(t, a, "k"), granted.Add(lasts))

		// Until the reply comes there is no other lease.
		for time.Since(granted) < lasts+150*time.Millisecond {
			if a.serves("k") {
				t.Fatalf("served %v after the deadline", time.Since(granted)-lasts)
			}
			if n := a.cost(func() { a.get("k") }); n != "Range=1" {
				t.Fatalf("a read after the deadline cost %q", n)
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		if !replied.Load() {
			t.Fatal("the test is wrong: the renewal was given up before its reply came")
		}
		if a.serves("k") {
			t.Error("the reply that came too late has revived the lease")
		}
		a.conn.Intercept(nil)
		time.Sleep(time.Second)
		a.own("k")
		if now := c.claim("k"); now.Lease == old.Lease || now.CreateRevision == old.CreateRevision {
			t.Errorf("the claim is still %v", now)
		}
		resp, err := c.root.TimeToLive(t.Context(), clientv3.LeaseID(old.Lease))
		if err != nil || resp.TTL >= 0 {
			t.Errorf("the lease that is over has not been revoked: %v, %v", resp, err)
		}
	})
}

// Invariant: I2. As long as renewals succeed, nothing is interrupted.
func TestI2RenewalsKeepTheLease(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", ttl)
		a.own("k")
		before := c.claim("k")
		for range 600 {
			time.Sleep(time.Second)
			if !a.serves("k") {
				t.Fatal("not served from memory")
			}
		}
		if now := c.claim("k"); now.ModRevision != before.ModRevision {
			t.Errorf("the claim was %v and is %v", before, now)
		}
		// Every 2.9 s, and a question to the watch every 3.3 s.
		if n := a.conn.Sent()[memetcd.MethodLeaseKeepAlive]; n < 200 || n > 210 {
			t.Errorf("%d renewals in 10 minutes", n)
		}
	})
}

// Invariant: I2. A server whose clock is 4 % fast ends leases early. Nothing
// is read from memory after it has.
func TestI2FastServer(t *testing.T) {
	for _, ttl := range []time.Duration{1, 2, 3, 5, 10, 60, 300} {
		for _, cut := range []memetcd.Direction{memetcd.Requests, memetcd.Replies, memetcd.Both} {
			ttl := ttl * time.Second
			t.Run(fmt.Sprint(ttl, "/", cut), func(t *testing.T) {
				onCluster(t, memetcd.Options{ClockRate: 1.04, Latency: 5 * time.Millisecond}, func(t *testing.T, c *cluster) {
					var mu sync.Mutex
					var expired time.Time
					c.srv.OnApply(func(_ context.Context, _ int64, events []*mvccpb.Event) {
						mu.Lock()
						defer mu.Unlock()
						for _, ev := range events {
							if ev.Type == mvccpb.DELETE && strings.HasPrefix(string(ev.Kv.Key), claimPrefix) {
								expired = time.Now()
							}
						}
					})
					a := c.open("a", ttl)
					a.own("k")
					time.Sleep(ttl * 3 / 2)
					a.own("k")
					start := time.Now()
					a.conn.Cut(cut)
					last := lastServed(t, a, "k")
					time.Sleep(ttl)
					mu.Lock()
					defer mu.Unlock()
					if !last.Before(expired) {
						t.Errorf("served from memory until %v after the lease had expired", last.Sub(expired))
					}
					if last.Sub(start) < ttl/10 {
						t.Errorf("served for %v only", last.Sub(start))
					}
				})
			})
		}
	}
}

// An owner that is cut off, in either direction or both, serves what it owns
// until its deadline, and no longer. Then reads fail as a plain client's do.
// Another's write waits for the lease at most; after the link is back the
// KV reads what was written, and owns again.
func TestI1OwnerThatIsCutOff(t *testing.T) {
	for _, cut := range []memetcd.Direction{memetcd.Requests, memetcd.Replies, memetcd.Both} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				a, b := c.pair(ttl)
				a.put("k", "old")
				a.own("k")
				a.conn.Cut(cut)
				start := time.Now()
				var wrote time.Time
				var wg sync.WaitGroup
				wg.Go(func() {
					b.put("k", "new")
					wrote = time.Now()
				})
				last := lastServed(t, a, "k")
				if d := last.Sub(start); d < lasts/2 && cut == memetcd.Replies {
					// REVOKE does not come through, so it serves until the deadline.
					t.Errorf("served for %v only", d)
				}
				d := took(func() {
					if _, err := a.Get(within(t, time.Second), "k"); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("read while cut off: %v", err)
					}
					if _, err := a.Put(within(t, time.Second), "j", "v"); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("write while cut off: %v", err)
					}
				})
				want(t, "duration of a read and a write of a second each", d, 2*time.Second)
				wg.Wait()
				if wrote.Before(last) {
					t.Errorf("written %v before the last read from memory", last.Sub(wrote))
				}
				longest := ttl + 10*trip
				if cut == memetcd.Replies {
					longest += ttl / 3 // it has renewed the lease without knowing; it revokes it after its deadline
				}
				if d := wrote.Sub(start); d > longest {
					t.Errorf("the writer waited for %v", d)
				}
				time.Sleep(time.Minute)
				a.conn.Heal()
				time.Sleep(10 * time.Second)
				want(t, "read after the link is back", a.get("k"), "new")
				a.own("k")
			})
		})
	}
}
