package leasing_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// A caller who gives up gets its answer at once, and nothing more is sent on
// its behalf.
func TestCancelledCallersReturnAtOnce(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		b.own("foreign", "range/1")
		b.conn.Cut(memetcd.Replies)
		f := a.meet(replyHeld, writesOf("claims/slow"))
		for what, op := range map[string]func(context.Context) error{
			"read that claims":     func(ctx context.Context) error { return second(a.Get(ctx, "slow")) },
			"put of another's key": func(ctx context.Context) error { return second(a.Put(ctx, "foreign", "v")) },
			"delete of it":         func(ctx context.Context) error { return second(a.Delete(ctx, "foreign")) },
			"delete of a range":    func(ctx context.Context) error { return second(a.Delete(ctx, "range/", clientv3.WithPrefix())) },
			"transaction": func(ctx context.Context) error {
				return second(a.Txn(ctx).Then(clientv3.OpPut("foreign", "v"), clientv3.OpPut("j", "v")).Commit())
			},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(20*trip, cancel)
			var err error
			if d := took(func() { err = op(ctx) }); d != 20*trip || !errors.Is(err, context.Canceled) {
				t.Errorf("%s: returned after %v with %v", what, d, err)
			}
			n := a.conn.Sent()[memetcd.MethodTxn] + a.conn.Sent()[memetcd.MethodRange]
			time.Sleep(800 * time.Millisecond) // all in all before the claim itself is given up
			want(t, what+": sent afterwards", a.conn.Sent()[memetcd.MethodTxn]+a.conn.Sent()[memetcd.MethodRange]-n, 0)
		}
		close(f.release)
		b.conn.Heal()
		synctest.Wait()
	})
}

func TestContextThatIsOverSendsNoWrite(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		n := a.cost(func() {
			for what, err := range map[string]error{
				"put":    second(a.Put(ctx, "k", "v")),
				"delete": second(a.Delete(ctx, "j")),
				"txn":    second(a.Txn(ctx).Then(clientv3.OpPut("k", "v"), clientv3.OpPut("j", "v")).Commit()),
			} {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
		want(t, "cost", n, "")
		if !a.serves("k") {
			t.Error("a write that was not sent has cost the key")
		}
	})
}

// A read from memory does not look at its context, as is documented.
func TestContextThatIsOverIsAnsweredFromMemory(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for what, err := range map[string]error{
			"read":        second(a.Get(ctx, "k")),
			"transaction": second(a.Txn(ctx).Then(clientv3.OpGet("k")).Commit()),
		} {
			if err != nil {
				t.Errorf("%s of an owned key: %v", what, err)
			}
		}
		if err := second(a.Get(ctx, "elsewhere")); !errors.Is(err, context.Canceled) {
			t.Errorf("read of another: %v", err)
		}
	})
}
