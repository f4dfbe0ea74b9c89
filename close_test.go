package leasing_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

func TestCloseHandsOver(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		for i := range 200 {
			a.get(fmt.Sprint("k", i))
		}
		a.Close()
		want(t, "claims", len(c.claims()), 0)
		resp, err := c.root.Leases(t.Context())
		if err != nil || len(resp.Leases) != 1 {
			t.Errorf("leases besides b's: %v, %v", resp, err)
		}
		c.srv.RecordTxns()
		want(t, "cost of the next put", b.cost(func() { b.put("k1", "v") }), "Txn=1")
		want(t, "cost of the next delete", b.cost(func() { b.Delete(t.Context(), "k2") }), "Txn=1")
		want(t, "commits", c.commits(), lines("b: put k1=v", "b: delete k2"))
	})
}

// While a KV closes, it goes on reading from memory until it gives its leases up, and
// not past that: what another has written is not overlooked by reads that begin later,
// and once Close has returned there are none.
func TestI1ReadsWhileClosing(t *testing.T) {
	for before := range 12 { // how long before Close the put begins, in parts of a trip
		onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
			a, b := c.pair(time.Minute)
			a.put("k", "old")
			a.own("k")
			var put, shut time.Time
			var wg sync.WaitGroup
			wg.Go(func() {
				b.put("k", "new")
				put = time.Now()
			})
			wg.Go(func() {
				time.Sleep(time.Duration(before) * trip / 3)
				a.Close()
				shut = time.Now()
			})
			type read struct {
				at    time.Time
				value string
			}
			var reads []read
			for end := time.Now().Add(20 * trip); time.Now().Before(end); time.Sleep(trip / 20) {
				at := time.Now()
				resp, err := a.Get(t.Context(), "k")
				switch {
				case err == nil:
					reads = append(reads, read{at, string(resp.Kvs[0].Value)})
				case !errors.Is(err, leasing.ErrClosed):
					t.Error(err)
				}
			}
			wg.Wait()
			for _, r := range reads {
				if r.value == "old" && r.at.After(put) {
					t.Errorf("old value read %v after it was overwritten", r.at.Sub(put))
				}
				if r.at.After(shut) {
					t.Errorf("read %v after Close", r.at.Sub(shut))
				}
			}
			if len(reads) == 0 {
				t.Error("nothing was read")
			}
		})
	}
}

func TestCloseMoreThanOnceAndAtOnce(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k")
		a.conn.SetLatency(0) // virtual time stands still while a goroutine waits for a lock
		together(10, func(int) {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			if n := len(c.claims()); n > 0 { // every one of them waits
				t.Errorf("%d claims after Close", n)
			}
		})
		if d := took(func() { a.Close() }); d > 0 {
			t.Errorf("closing it once more took %v", d)
		}
	})
}

// After Close every operation fails at once and sends nothing.
func TestEveryOperationAfterClose(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k")
		before := a.Txn(t.Context()).Then(clientv3.OpGet("k"))
		a.Close()
		var d time.Duration
		n := a.cost(func() {
			d = took(func() {
				for what, err := range everyOperation(t.Context(), a) {
					if !errors.Is(err, leasing.ErrClosed) {
						t.Errorf("%s: %v", what, err)
					}
				}
				if _, err := before.Commit(); !errors.Is(err, leasing.ErrClosed) {
					t.Errorf("Commit of a transaction that was begun before: %v", err)
				}
			})
		})
		want(t, "cost", n, "")
		want(t, "duration", d, 0)
	})
}

func everyOperation(ctx context.Context, kv clientv3.KV) map[string]error {
	return map[string]error{
		"Get":       second(kv.Get(ctx, "k")),
		"Get range": second(kv.Get(ctx, "k", clientv3.WithPrefix())),
		"GetStream": second(kv.GetStream(ctx, "k")),
		"Put":       second(kv.Put(ctx, "k", "v")),
		"Delete":    second(kv.Delete(ctx, "k")),
		"Compact":   second(kv.Compact(ctx, 1)),
		"Do get":    second(kv.Do(ctx, clientv3.OpGet("k"))),
		"Do put":    second(kv.Do(ctx, clientv3.OpPut("k", "v"))),
		"Do delete": second(kv.Do(ctx, clientv3.OpDelete("k"))),
		"Do txn":    second(kv.Do(ctx, clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("k")}, nil))),
		"Txn":       second(kv.Txn(ctx).Then(clientv3.OpPut("k", "v")).Commit()),
		"empty Txn": second(kv.Txn(ctx).Commit()),
	}
}

// What waits for others when Close begins ends with ErrClosed at once: a
// reader for its claim, a writer for an owner, or for a claim of our own.
func TestWaitingOperationsEndWithClose(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		b.own("foreign", "range/1")
		b.conn.Cut(memetcd.Replies) // b does not hear that it is asked
		isClaim := writesOf("claims/slow")
		f := a.meet(replyHeld, isClaim)
		ops := map[string]func() error{
			"read that claims":               func() error { return second(a.Get(t.Context(), "slow")) },
			"write that waits for a claim":   func() error { return second(a.Put(t.Context(), "slow", "v")) },
			"put of another's key":           func() error { return second(a.Put(t.Context(), "foreign", "v")) },
			"delete of another's key":        func() error { return second(a.Delete(t.Context(), "foreign")) },
			"delete of a range of another's": func() error { return second(a.Delete(t.Context(), "range/", clientv3.WithPrefix())) },
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		ended := make(map[string]time.Duration)
		start := time.Now()
		for what, op := range ops {
			wg.Go(func() {
				if what != "read that claims" {
					time.Sleep(trip / 4)
				}
				err := op()
				mu.Lock()
				defer mu.Unlock()
				ended[what] = time.Since(start)
				if !errors.Is(err, leasing.ErrClosed) {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		// Not within a retry: only Close shall end them.
		time.Sleep(12 * trip)
		if len(ended) > 0 {
			t.Fatalf("the test is wrong: ended before Close: %v", ended)
		}
		sent := a.conn.Sent()[memetcd.MethodTxn]
		closing := time.Since(start)
		var closed sync.WaitGroup
		closed.Go(func() { a.Close() })
		wg.Wait()
		for what, d := range ended {
			if d != closing {
				t.Errorf("%s ended %v after Close began", what, d-closing)
			}
		}
		want(t, "transactions after Close", a.conn.Sent()[memetcd.MethodTxn]-sent, 0)
		close(f.release)
		b.conn.Heal()
		closed.Wait()
	})
}

func TestNewEndsWithItsContext(t *testing.T) {
	for name, begin := range map[string]func(c *cluster, p *peer){
		"cut off":   func(_ *cluster, p *peer) { p.conn.Cut(memetcd.Both) },
		"no leader": func(c *cluster, _ *peer) { c.srv.LoseLeader() },
	} {
		t.Run(name, func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				p := c.client("p")
				begin(c, p)
				start := time.Now()
				_, err := leasing.New(within(t, 10*time.Second), p.cl, leasing.Config{Prefix: claimPrefix})
				if d := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || d < 10*time.Second || d > 13*time.Second {
					t.Errorf("ended after %v with %v", d, err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				if _, err := leasing.New(ctx, p.cl, leasing.Config{Prefix: claimPrefix}); !errors.Is(err, context.Canceled) {
					t.Errorf("with a context that is over: %v", err)
				}
				start = time.Now()
				closed := make(chan struct{})
				time.AfterFunc(time.Second, func() {
					defer close(closed)
					p.cl.Close()
				})
				if _, err := leasing.New(t.Context(), p.cl, leasing.Config{Prefix: claimPrefix}); err == nil {
					t.Error("no error from a client that is closed")
				}
				if d := time.Since(start); d > 4*time.Second {
					t.Errorf("ended %v after its client was closed", d)
				}
				<-closed
			})
		})
	}
}

func TestWrongConfigs(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		p := c.client("p")
		for _, tc := range []struct {
			cfg  leasing.Config
			says []string
		}{
			{leasing.Config{}, []string{"Prefix", "empty"}},
			{leasing.Config{TTL: time.Minute}, []string{"Prefix", "empty"}},
			{leasing.Config{Prefix: "p/", TTL: -1}, []string{"TTL", "-1ns", "1s"}},
			{leasing.Config{Prefix: "p/", TTL: -time.Hour}, []string{"TTL", "-1h0m0s"}},
			{leasing.Config{Prefix: "p/", TTL: time.Second - 1}, []string{"TTL", "999.999999ms", "1s"}},
			{leasing.Config{Prefix: "p/", TTL: 366 * 24 * time.Hour}, []string{"TTL", "8784h0m0s", "year"}},
			{leasing.Config{Prefix: "p/", TTL: math.MaxInt64}, []string{"TTL", "year"}},
			{leasing.Config{Prefix: "p/", MaxTxnOps: -1}, []string{"MaxTxnOps", "-1"}},
			{leasing.Config{Prefix: "p/", MaxTxnOps: 7}, []string{"MaxTxnOps", "7", "8"}},
			{leasing.Config{Prefix: "p/", MaxKeys: -1}, []string{"MaxKeys", "-1"}},
			{leasing.Config{Prefix: "p/", MaxBytes: -1}, []string{"MaxBytes", "-1", "0"}},
			{leasing.Config{Prefix: "p/", MaxBytes: 259}, []string{"MaxBytes", "259", "at least 260"}},
			{leasing.Config{Prefix: "p/", ClaimAfter: -1}, []string{"ClaimAfter", "-1"}},
			{leasing.Config{Prefix: "p/", WatchData: []string{"d/", "p/"}}, []string{"WatchData", `"p/"`, "claim prefix"}},
			{leasing.Config{Prefix: "p/", WatchData: []string{"p/d/"}}, []string{"WatchData", `"p/d/"`}},
			{leasing.Config{Prefix: "p/", IdleTimeout: -1}, []string{"IdleTimeout", "-1ns", "1s"}},
			{leasing.Config{Prefix: "p/", IdleTimeout: time.Second - 1}, []string{"IdleTimeout", "999.999999ms", "1s"}},
		} {
			var err error
			before := c.srv.Stats().Total()
			_, err = leasing.New(t.Context(), p.cl, tc.cfg)
			if err == nil {
				t.Errorf("%+v is taken", tc.cfg)
				continue
			}
			for _, word := range append(tc.says, "leasing: ") {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%+v: %v does not say %q", tc.cfg, err, word)
				}
			}
			want(t, "cost of a wrong configuration", c.srv.Stats().Total()-before, 0)
		}
		if kv, _, err := leasing.NewKV(p.cl, ""); err == nil || kv != nil {
			t.Errorf("NewKV without a prefix: %v, %v", kv, err)
		}
		for _, tc := range []struct {
			cfg leasing.Config
			ttl int64
		}{
			{leasing.Config{Prefix: "p/"}, 60},
			{leasing.Config{Prefix: "p/", TTL: time.Second, MaxTxnOps: 8}, 1},
			{leasing.Config{Prefix: "p/", TTL: 1500 * time.Millisecond}, 2},
		} {
			cfg, ttl := tc.cfg, tc.ttl
			kv, err := leasing.New(t.Context(), p.cl, cfg)
			if err != nil {
				t.Errorf("%+v: %v", cfg, err)
				continue
			}
			resp, err := c.root.Leases(t.Context())
			if err != nil || len(resp.Leases) != 1 {
				t.Fatalf("%+v: leases %v, %v", cfg, resp, err)
			}
			info, err := c.root.TimeToLive(t.Context(), resp.Leases[0].ID)
			if err != nil || info.GrantedTTL != ttl {
				t.Errorf("%+v: lease %v, %v", cfg, info, err)
			}
			kv.Close()
		}
	})
}
