package leasing_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// Invariants: I3, I6. A write whose outcome is unknown is never sent again;
// what it may have written is not read from memory until the grant under which
// it was sent is gone.
func TestI3I6UnknownOutcome(t *testing.T) {
	for _, harm := range []string{requestLost, replyLost, requestHeld} {
		for name, write := range map[string]func(context.Context, clientv3.KV) error{
			"put": func(ctx context.Context, kv clientv3.KV) error {
				_, err := kv.Put(ctx, "k", "new")
				return err
			},
			"delete": func(ctx context.Context, kv clientv3.KV) error {
				_, err := kv.Delete(ctx, "k")
				return err
			},
			"range": func(ctx context.Context, kv clientv3.KV) error {
				_, err := kv.Delete(ctx, "k", clientv3.WithPrefix())
				return err
			},
			"txn": func(ctx context.Context, kv clientv3.KV) error {
				_, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.Value("k"), "=", "old")).Then(clientv3.OpPut("k", "new")).Commit()
				return err
			},
		} {
			for _, owned := range []bool{true, false} {
				t.Run(fmt.Sprint(harm, "/", name, "/owned=", owned), func(t *testing.T) {
					onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
						unknownOutcome(t, c, harm, name, owned, write)
					})
				})
			}
		}
	}
}

func unknownOutcome(t *testing.T, c *cluster, harm, name string, owned bool, write func(context.Context, clientv3.KV) error) {
	a, b := c.pair(time.Minute)
	a.put("k", "old")
	if owned {
		a.own("k")
	}
	before := c.claim("k").CreateRevision
	changes := c.puts("k")
	f := a.meet(harm, writesOf("k"))
	d := took(func() {
		if err := write(within(t, time.Second), a); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error is %v", err)
		}
	})
	want(t, "it returned after", d, time.Second)

	after := "old"
	if harm == replyLost {
		after = "new"
		if name == "delete" || name == "range" {
			after = "-"
		}
	}
	want(t, "the next read", a.get("k"), after)
	time.Sleep(100 * time.Millisecond)
	a.own("k")
	if now := c.claim("k").CreateRevision; owned && now == before {
		t.Error("the grant is still the same (I6)")
	}
	close(f.release) // a held request comes now, when its guards are false
	time.Sleep(time.Minute)
	want(t, "a minute later", a.get("k"), after)
	a.own("k")
	want(t, "from memory", a.get("k"), after)
	want(t, "etcd holds", c.value("k"), after)
	want(t, "requests", f.sent.Load(), 1)
	want(t, "times applied", changes(), map[bool]int{true: 1, false: 0}[harm == replyLost])
	b.put("k", "other")
	want(t, "read after another's write", a.get("k"), "other")
}

// Invariant: I6. A write may be applied after its caller has given up, as long
// as its grant is there. Until the yield is confirmed nothing is read from
// memory.
func TestI6LateWriteBeforeTheYield(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.put("k", "old")
		a.own("k")
		write, yield := make(chan struct{}), make(chan struct{})
		isWrite, isYield := writesOf("k"), writesOf("claims/k")
		var yields atomic.Int32
		a.conn.Intercept(func(ctx context.Context, call *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
			switch {
			case isWrite(call):
				<-write
				return do(context.WithoutCancel(ctx))
			case isYield(call) && yields.Add(1) == 1:
				<-yield
			}
			return do(ctx)
		})
		if _, err := a.Put(within(t, 10*trip), "k", "new"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error is %v", err)
		}
		for range 20 {
			want(t, "read before the late write", a.get("k"), "old")
			time.Sleep(10 * time.Millisecond)
		}
		close(write)
		time.Sleep(2 * trip)
		want(t, "read after the late write", a.get("k"), "new")
		if a.serves("k") {
			t.Error("served from memory before the yield is confirmed")
		}
		close(yield)
		time.Sleep(2 * trip)
		a.own("k")
		want(t, "read when owned again", a.get("k"), "new")
	})
}

// Invariant: I9. The claim whose reply was lost is ours all the same. It is
// found and yielded, and whoever asks for it gets it.
func TestI9ClaimWithoutAReply(t *testing.T) {
	for _, harm := range []string{requestLost, replyLost, requestHeld} {
		t.Run(harm, func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				a, b := c.pair(time.Minute)
				c.root.Put(t.Context(), "k", "old")
				f := a.meet(harm, writesOf("claims/k"))
				d := took(func() { want(t, "the first read", a.get("k"), "old") })
				if d > 1100*time.Millisecond {
					t.Errorf("a lost claim held the read up for %v", d)
				}
				time.Sleep(5 * time.Second) // its request is given up
				close(f.release)
				time.Sleep(time.Second)
				// The claim has been yielded, or nobody would have to be asked now.
				want(t, "claims", len(c.claims()), 0)
				if n := b.cost(func() { b.put("k", "new") }); n != "Txn=1" {
					t.Errorf("another's put cost %s", n)
				}
				want(t, "read", a.get("k"), "new")
				a.own("k")
			})
		})
	}
}

// Invariants: I8, I9. A REVOKE overtakes the reply to the claim that it asks
// for: it is answered at once, and the reply installs nothing.
func TestI8RevokeOvertakesTheReplyToTheClaim(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		c.root.Put(t.Context(), "k", "old")
		f := a.meet(replyHeld, writesOf("claims/k"))
		read := make(chan string)
		go func() { read <- a.get("k") }()
		time.Sleep(5 * trip)
		want(t, "claims under way", len(c.claims()), 1)
		if d := took(func() { b.put("k", "new") }); d != 6*trip {
			t.Errorf("another's write waited for %v", d)
		}
		close(f.release)
		<-read // it was there before the write, and may have either value
		for range 100 {
			if v, ok := a.local("k"); ok && v != "new" {
				t.Fatalf("read %q from memory", v)
			}
			time.Sleep(10 * time.Millisecond)
		}
		want(t, "read", a.get("k"), "new")
	})
}

// Invariant: I8. A reader who comes after the claim was sent does not share
// its reply: that may be older than a write which was over by then.
func TestI8LaterReadersDoNotShareTheReply(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		c.root.Put(t.Context(), "k", "old")
		f := a.meet(replyHeld, writesOf("claims/k"))
		early, late := make(chan string, 1), make(chan string, 1)
		go func() { early <- a.get("k") }()
		time.Sleep(5 * trip)
		b.put("k", "new")
		go func() { late <- a.get("k") }()
		time.Sleep(5 * trip)
		close(f.release)
		want(t, "read that began before the write", <-early, "old")
		want(t, "read that began after it", <-late, "new")
	})
}

// Invariant: I7. When another's write is applied, the former owner has
// forgotten the key, whatever is slow on the way.
func TestI7NothingOldIsServedAfterAWrite(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		a.conn.DelayWatch(20 * time.Millisecond)
		isYield := writesOf("claims/k")
		a.conn.Intercept(func(ctx context.Context, call *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
			r, err := do(ctx)
			if isYield(call) { // or the claim
				time.Sleep(20 * time.Millisecond) // the writer hears of it before its sender does
			}
			return r, err
		})
		var written, mu = 0, sync.Mutex{}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			hits := 0
			for {
				select {
				case <-stop:
					if hits < 1000 {
						t.Errorf("%d reads from memory", hits)
					}
					return
				case <-time.After(trip / 2):
				}
				mu.Lock()
				least := written
				mu.Unlock()
				if v, ok := a.local("k"); ok {
					hits++
					if n := 0; v != "-" {
						if fmt.Sscan(v, &n); n < least {
							t.Errorf("read %d from memory after %d was written", n, least)
						}
					} else if least > 0 {
						t.Errorf("read nothing after %d was written", least)
					}
				}
			}
		})
		for i := 1; i <= 20; i++ {
			time.Sleep(300 * time.Millisecond)
			b.put("k", fmt.Sprint(i))
			mu.Lock()
			written = i
			mu.Unlock()
		}
		close(stop)
		wg.Wait()
	})
}
