package leasing

import (
	"context"
	"fmt"
	"sync/atomic"
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

// Nor do they with the help of another writer, near by, after whose writes they
// take the key again at once.
func TestNearWriterDoesNotStarveADistantOne(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		near, _ := r.other("near", time.Millisecond)
		defer near.Close()
		distant, _ := r.other("distant", 150*time.Millisecond)
		defer distant.Close()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{}, 2)
		go func() { r.readOften(ctx, "k"); done <- struct{}{} }()
		var writes atomic.Int32
		go func() {
			for ; ctx.Err() == nil; writes.Add(1) {
				near.Put(ctx, "k", "near")
				time.Sleep(50 * time.Millisecond)
			}
			done <- struct{}{}
		}()
		time.Sleep(time.Second)
		if n := writes.Load(); n < 10 {
			t.Errorf("the writer near by has written %d times in a second: its key rests too long", n)
		}
		wctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		_, err := distant.Put(wctx, "k", "distant")
		stop()
		<-done
		<-done
		if d := time.Since(begin); err != nil || d > 20*time.Second {
			t.Errorf("the distant writer waited for %v: %v", d, err)
		}
	})
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
	t.Parallel()
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

// A writer who is further away than one rest does not have to beat the readers of
// many KVs one by one.
func TestManyHotReadersDoNotStarveADistantWriter(t *testing.T) {
	t.Parallel()
	for _, n := range []int{4, 40} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			onRig(t, func(t *testing.T, r *rig) {
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan struct{}, n)
				for i := range n {
					kv, _ := r.other(fmt.Sprint("r", i), time.Millisecond)
					defer kv.Close()
					go func() {
						for ctx.Err() == nil {
							kv.Get(ctx, "k")
							time.Sleep(5 * time.Millisecond)
						}
						done <- struct{}{}
					}()
				}
				w, _ := r.other("writer", 150*time.Millisecond)
				defer w.Close()
				time.Sleep(3 * time.Second)
				wctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				begin := time.Now()
				_, err := w.Put(wctx, "k", "v")
				d := time.Since(begin)
				stop()
				for range n {
					<-done
				}
				if err != nil || d > 10*time.Second {
					t.Errorf("the writer waited for %v: %v", d, err)
				}
			})
		})
	}
}

// One transaction, or deletion, of keys that several KVs read often.
func TestManyHotReadersDoNotStarveALargeWrite(t *testing.T) {
	t.Parallel()
	const readers, keys = 6, 40
	for _, c := range []struct {
		name  string
		write func(context.Context, *KV) error
	}{
		{"flat", func(ctx context.Context, kv *KV) error {
			var ops []clientv3.Op
			for i := range keys {
				ops = append(ops, clientv3.OpPut(fmt.Sprintf("k%02d", i), "v"))
			}
			_, err := kv.Txn(ctx).Then(ops...).Commit()
			return err
		}},
		{"covered", func(ctx context.Context, kv *KV) error {
			var ops []clientv3.Op
			for i := range 100 {
				ops = append(ops, clientv3.OpPut(fmt.Sprintf("k%02d", i), "v"))
			}
			_, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.Version("z"), "=", 0)).Then(ops...).Commit()
			return err
		}},
		{"mixed", func(ctx context.Context, kv *KV) error {
			_, err := kv.Txn(ctx).Then(clientv3.OpDelete("k0", clientv3.WithPrefix()), clientv3.OpPut("k15", "v"),
				clientv3.OpDelete("k2", clientv3.WithPrefix()), clientv3.OpDelete("k3", clientv3.WithPrefix())).Commit()
			return err
		}},
		{"delete", func(ctx context.Context, kv *KV) error {
			_, err := kv.Delete(ctx, "k", clientv3.WithPrefix())
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			onRig(t, func(t *testing.T, r *rig) {
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan struct{}, readers)
				for i := range readers {
					kv, _ := r.other(fmt.Sprint("r", i), time.Millisecond)
					defer kv.Close()
					go func() {
						for n := i * 7; ctx.Err() == nil; n++ {
							kv.Get(ctx, fmt.Sprintf("k%02d", n%keys))
							time.Sleep(time.Duration(1+i) * time.Millisecond)
						}
						done <- struct{}{}
					}()
				}
				w, _ := r.other("writer", 100*time.Millisecond)
				defer w.Close()
				time.Sleep(3 * time.Second)
				wctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				begin := time.Now()
				err := c.write(wctx, w)
				d := time.Since(begin)
				stop()
				for range readers {
					<-done
				}
				if err != nil || d > 10*time.Second {
					t.Errorf("the writer waited for %v: %v", d, err)
				}
			})
		})
	}
}
