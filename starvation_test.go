package leasing

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// other opens a second KV, whose messages take d each way.
func (r *rig) other(name string, d time.Duration) (*KV, *memetcd.Conn) {
	r.t.Helper()
	cl, conn := r.srv.Client(name)
	conn.SetLatency(d)
	kv, err := New(r.t.Context(), cl, Config{Prefix: "claims/", TTL: rigTTL, Logger: zap.NewNop()})
	if err != nil {
		r.t.Fatal(err)
	}
	return kv, conn
}

// readOften reads key every 2 ms until the test's own context ends.
func (r *rig) readOften(ctx context.Context, key string) {
	for ctx.Err() == nil {
		r.kv.Get(ctx, key)
		time.Sleep(2 * time.Millisecond)
	}
}

// Readers who take a key again as soon as it has rested do not starve a writer
// who is further away than that.
func TestHotReaderDoesNotStarveADistantWriter(t *testing.T) {
	for _, c := range []struct {
		name   string
		oneWay time.Duration
		write  func(context.Context, *KV) error
	}{
		{"put over 300 ms round trips", 150 * time.Millisecond, func(ctx context.Context, kv *KV) error {
			_, err := kv.Put(ctx, "k", "v")
			return err
		}},
		{"range deletion over 150 ms round trips", 75 * time.Millisecond, func(ctx context.Context, kv *KV) error {
			_, err := kv.Delete(ctx, "k", clientv3.WithPrefix())
			return err
		}},
		{"put near by", time.Millisecond, func(ctx context.Context, kv *KV) error {
			_, err := kv.Put(ctx, "k", "v")
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			onRig(t, func(t *testing.T, r *rig) {
				kv2, _ := r.other("kv2", c.oneWay)
				defer kv2.Close()
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); r.readOften(ctx, "k") }()
				time.Sleep(time.Second)
				wctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begin, before := time.Now(), r.sent()
				err := c.write(wctx, kv2)
				stop()
				<-done
				if d := time.Since(begin); err != nil || d > 10*time.Second {
					t.Errorf("the writer waited for %v: %v; meanwhile the owner sent %d transactions", d, err, r.sent()-before)
				}
			})
		})
	}
}

// The same near by, when the writer's watch lags.
func TestHotReaderDoesNotStarveAWriterWhoseWatchLags(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		kv2, conn2 := r.other("kv2", time.Millisecond)
		defer kv2.Close()
		conn2.DelayWatch(3 * time.Second)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.readOften(ctx, "k") }()
		time.Sleep(time.Second)
		wctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		_, err := kv2.Put(wctx, "k", "v")
		stop()
		<-done
		if d := time.Since(begin); err != nil || d > 10*time.Second {
			t.Errorf("the writer waited for %v: %v", d, err)
		}
	})
}

// The range deletion of many hot keys of somebody else's, 30 ms away.
func TestHotReadersDoNotStarveARangeDeletion(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		kv2, _ := r.other("kv2", 15*time.Millisecond)
		defer kv2.Close()
		ctx, stop := context.WithCancel(t.Context())
		const keys = 900
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				for i := range keys {
					go r.kv.Get(ctx, fmt.Sprintf("k%04d", i))
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
		time.Sleep(3 * time.Second)
		wctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		begin := time.Now()
		_, err := kv2.Delete(wctx, "k", clientv3.WithPrefix())
		stop()
		<-done
		if d := time.Since(begin); err != nil {
			t.Errorf("the writer waited for %v: %v", d, err)
		}
	})
}
