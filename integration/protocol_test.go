package integration_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// fltLeastMargin is how long before its end a lease may no longer be relied
// on, at least (I2).
const fltLeastMargin = 500 * time.Millisecond

// fltServe reads key through kv, which cannot reach etcd, until a read is not
// answered, and returns when the latest that was answered began, and how many
// there were.
func fltServe(t *testing.T, kv clientv3.KV, key, want string) (last time.Time, n int) {
	t.Helper()
	for end := time.Now().Add(fltPatience); ; n++ {
		began := time.Now()
		if began.After(end) {
			t.Fatal("it serves without end")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		resp, err := kv.Get(ctx, key)
		cancel()
		if err != nil {
			return last, n
		}
		if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != want {
			t.Fatalf("read %v, not %q", resp.Kvs, want)
		}
		last = began
		time.Sleep(time.Millisecond)
	}
}

// An owner that is cut off serves until its deadline and not past it.
// Then its reads end with their contexts, and when etcd is back it heals.
func TestCutOffOwner(t *testing.T) {
	for _, tt := range []struct {
		name      string
		cut, heal func(*etcdtest.Cluster, *etcdtest.Relay)
	}{
		{"link cut",
			func(_ *etcdtest.Cluster, r *etcdtest.Relay) { r.Cut() },
			func(_ *etcdtest.Cluster, r *etcdtest.Relay) { r.Heal() }},
		{"server stopped",
			func(c *etcdtest.Cluster, _ *etcdtest.Relay) { c.Stop(0) },
			func(c *etcdtest.Cluster, _ *etcdtest.Relay) { c.Restart(0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const ttl = 4 * time.Second
			etcd := etcdtest.Start(t, etcdtest.QuickTicks())
			relay := etcd.Relay(0)
			var sent etcdtest.Counter
			a := fltOpen(t, etcd.ClientVia(relay, sent.Option()), ttl)
			b := fltOpen(t, etcd.Client(0), ttl)
			fltPut(t, a, "k", "1")
			fltOwn(t, a, &sent, "k")
			cutting := time.Now()
			tt.cut(etcd, relay)
			renewed := sent.Last("LeaseGrant", "LeaseKeepAlive") // or a little later: it bounds the deadline from above
			last, n := fltServe(t, a, "k", "1")
			// At the cut at least two thirds of the time to the deadline were left.
			if n == 0 || last.Sub(cutting) < ttl/4 {
				t.Errorf("served %d reads, until %v after the cut", n, last.Sub(cutting))
			}
			if over := last.Sub(renewed.Add(ttl - fltLeastMargin)); over > 0 {
				t.Errorf("served %v past the deadline", over)
			}
			tt.heal(etcd, relay)
			fltUntil(t, "b writes", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				_, err := b.Put(ctx, "k", "2")
				return err == nil
			})
			fltUntil(t, "a reads again", func() bool { _, err := a.Get(fltContext(t), "k"); return err == nil })
			fltAgree(t, "k", "2", a, b)
			fltOwn(t, a, &sent, "k")
			fltPut(t, a, "k", "3")
			fltAgree(t, "k", "3", a, b)
		})
	}
}

// lateStream holds back the replies on a stream.
type lateStream struct {
	grpc.ClientStream
	late func()
}

func (s lateStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	s.late()
	return err
}

// I2. A lease that is renewed by a reply that comes two seconds
// late lasts from when the renewal was sent.
func TestLateRenewal(t *testing.T) {
	t.Parallel()
	// So long that a renewal is waited for for more than two seconds.
	const ttl, late = 8 * time.Second, 2 * time.Second
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	relay := etcd.Relay(0)
	var sent etcdtest.Counter
	var renewals atomic.Int64
	cut := make(chan time.Time, 1) // gets when the renewal was sent that came late
	a := fltOpen(t, etcd.ClientVia(relay, sent.Option(), func(cfg *clientv3.Config) {
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainStreamInterceptor(
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				s, err := open(ctx, desc, cc, method, opts...)
				if err != nil || method != pb.Lease_LeaseKeepAlive_FullMethodName {
					return s, err
				}
				return lateStream{s, func() {
					if renewals.Add(1) > 1 {
						return
					}
					time.Sleep(late)
					relay.Cut()
					cut <- sent.Last("LeaseKeepAlive")
				}}, nil
			}))
	}), ttl)
	b := fltOpen(t, etcd.Client(0), ttl)
	fltPut(t, a, "k", "1")
	fltOwn(t, a, &sent, "k")
	renewed := <-cut
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := b.Put(fltContext(t), "k", "2"); err != nil {
			t.Error(err)
		}
	})
	last, n := fltServe(t, a, "k", "1")
	if n == 0 || !last.After(renewed.Add(late)) {
		t.Errorf("served %d reads, until %v after the renewal", n, last.Sub(renewed))
	}
	if over := last.Sub(renewed.Add(ttl - fltLeastMargin)); over > 0 {
		t.Errorf("served %v past the deadline", over)
	}
	relay.Heal()
	wg.Wait()
	fltAgree(t, "k", "2", b, a)
}

// What an operator takes away is noticed by the watch: the next
// renewal would be due much later than this test waits.
func TestOperatorTakesAway(t *testing.T) {
	const renewal = 19 * time.Second // (60 s - the margin of 3 s) / 3
	for _, tt := range []struct {
		name string
		take func(t *testing.T, plain *clientv3.Client, lease clientv3.LeaseID) error
	}{
		{"lease revoked", func(t *testing.T, plain *clientv3.Client, lease clientv3.LeaseID) error {
			_, err := plain.Revoke(fltContext(t), lease)
			return err
		}},
		{"claim deleted", func(t *testing.T, plain *clientv3.Client, _ clientv3.LeaseID) error {
			_, err := plain.Delete(fltContext(t), fltPrefix+"k")
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			etcd := etcdtest.Start(t, etcdtest.QuickTicks())
			plain := etcd.Client(0)
			var sent etcdtest.Counter
			opened := time.Now()
			a := fltOpen(t, etcd.Client(0, sent.Option()), time.Minute)
			fltPut(t, a, "k", "1")
			fltOwn(t, a, &sent, "k")
			claim := fltClaim(t, plain, "k")
			if err := tt.take(t, plain, clientv3.LeaseID(claim.Lease)); err != nil {
				t.Fatal(err)
			}
			fltPut(t, plain, "k", "2") // as anybody may, now that nobody owns it
			for fltGet(t, a, "k") != "2" {
				if time.Since(opened) > renewal {
					t.Fatal("it is not noticed before the next renewal")
				}
				time.Sleep(time.Millisecond)
			}
			fltOwn(t, a, &sent, "k")
			now := fltClaim(t, plain, "k")
			if now == nil || now.CreateRevision == claim.CreateRevision {
				t.Errorf("it is owned again under %v, after %v", now, claim)
			}
			fltPut(t, a, "k", "3")
			fltAgree(t, "k", "3", plain, a)
		})
	}
}

// I7. An owner has forgotten a key before its claim is gone: as soon as the
// writer who asked has written, the old value is not served any more, though
// the owner has not even been told that its yield was applied.
func TestForgetsBeforeYield(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	var sent etcdtest.Counter
	release := make(chan struct{})
	var yields atomic.Int64
	a := fltOpen(t, etcd.Client(0, sent.Option(), etcdtest.Intercept(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoke(ctx, method, req, reply, cc, opts...)
			if r, ok := req.(*pb.TxnRequest); ok && len(r.Success) == 1 && r.Success[0].GetRequestDeleteRange() != nil {
				yields.Add(1)
				select {
				case <-release:
				case <-ctx.Done():
				}
			}
			return err
		})), 5*time.Second)
	b := fltOpen(t, etcd.Client(0), 5*time.Second)
	fltPut(t, a, "k", "1")
	fltOwn(t, a, &sent, "k")
	fltPut(t, b, "k", "2")
	fltAgree(t, "k", "2", a, b, a)
	if yields.Load() == 0 {
		t.Error("a has yielded nothing")
	}
	close(release)
	fltAgree(t, "k", "2", a, b)
}

// Calls that are cancelled leave nothing behind that goes on sending.
func TestCancelledCalls(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	link := etcd.Relay(0)
	var sentA, sentB etcdtest.Counter
	release := make(chan struct{})
	var held atomic.Int64
	var cut atomic.Bool
	hold := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		switch r := req.(type) {
		case *pb.RangeRequest:
			if cut.Load() && (string(r.Key) == "foreign" || string(r.Key) == "slow") {
				held.Add(1)
				<-ctx.Done() // its caller's
				return ctx.Err()
			}
		case *pb.TxnRequest:
			if fltMayWrite(r, fltPrefix+"slow") || fltMayWrite(r, "slow") {
				held.Add(1)
				select {
				case <-release:
				case <-ctx.Done(): // the KV's
				}
			}
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	a := fltOpen(t, etcd.Client(0, sentA.Option(), etcdtest.Intercept(hold)), time.Minute)
	b := fltOpen(t, etcd.ClientVia(link, sentB.Option()), time.Minute)
	fltPut(t, a, "foreign", "1")
	fltOwn(t, b, &sentB, "foreign")
	link.Cut()                                                 // b gives nothing back
	if _, err := a.Get(fltContext(t), "foreign"); err != nil { // a knows now that it is foreign
		t.Fatal(err)
	}
	cut.Store(true)

	ctx, cancel := context.WithCancel(t.Context())
	calls := map[string]func() error{
		"read of a key whose claim is under way": func() error { _, err := a.Get(ctx, "slow"); return err },
		"read of a foreign key":                  func() error { _, err := a.Get(ctx, "foreign"); return err },
		"put":                                    func() error { _, err := a.Put(ctx, "foreign", "2"); return err },
		"deletion":                               func() error { _, err := a.Delete(ctx, "foreign"); return err },
		"deletion of a range":                    func() error { _, err := a.Delete(ctx, "f", clientv3.WithPrefix()); return err },
		"transaction": func() error {
			_, err := a.Txn(ctx).Then(clientv3.OpPut("foreign", "2"), clientv3.OpPut("free", "2")).Commit()
			return err
		},
		"write of a key whose claim is under way": func() error { _, err := a.Put(ctx, "slow", "2"); return err },
	}
	var wg sync.WaitGroup
	for name, call := range calls {
		wg.Go(func() {
			if err := call(); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	fltUntil(t, "all are under way", func() bool { return held.Load() >= 2 && sentA.Of("Txn") >= 5 })
	cancel()
	wg.Wait()
	cut.Store(false)
	close(release)
	fltOwn(t, a, &sentA, "slow") // the claim is not the callers'
	before := sentA.KV()
	time.Sleep(2500 * time.Millisecond) // longer than any of them would pause
	if n := sentA.KV() - before; n > 0 {
		t.Errorf("%d requests after all calls were cancelled: %v", n, &sentA)
	}
	fltAgree(t, "slow", "", a)
	link.Heal()
}

// fltPauses breaks the way to etcd of a KV and counts for some seconds what its
// client tries to send, by itself: most of one method is far below what a loop
// without a pause does, and far above what one with a pause does.
func fltPauses(t *testing.T, cut, heal func(*etcdtest.Cluster, *etcdtest.Relay), opts ...etcdtest.ClientOption) {
	t.Helper()
	const most, seconds = 400, 4
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	relay := etcd.Relay(0)
	var tried fltAttempts
	var sent etcdtest.Counter
	opts = append([]etcdtest.ClientOption{sent.Option(), tried.option}, opts...)
	a := fltOpen(t, etcd.ClientVia(relay, opts...), 2*time.Second)
	fltOwn(t, a, &sent, "k")
	fltOwn(t, a, &sent, "l")
	cut(etcd, relay)
	before := tried.counts()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := a.Put(ctx, "k", "1"); err == nil { // whose key has to be yielded now
		t.Error("a put has succeeded")
	}
	time.Sleep(seconds * time.Second) // the leases run out
	for method, n := range tried.counts() {
		n -= before[method]
		t.Logf("%s was tried %d times", method, n)
		if n > most {
			t.Errorf("%s was tried %d times in %d s", method, n, seconds)
		}
	}
	heal(etcd, relay)
	fltUntil(t, "a heals", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := a.Get(ctx, "k")
		return err == nil
	})
	fltOwn(t, a, &sent, "k")
}

// With the server away, nothing is tried without a pause.
func TestPausesWithServerAway(t *testing.T) {
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		fltPauses(t,
			func(c *etcdtest.Cluster, _ *etcdtest.Relay) { c.Stop(0) },
			func(c *etcdtest.Cluster, _ *etcdtest.Relay) { c.Restart(0) })
	})
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		fltPauses(t,
			func(_ *etcdtest.Cluster, r *etcdtest.Relay) { r.Cut() },
			func(_ *etcdtest.Cluster, r *etcdtest.Relay) { r.Heal() })
	})
}

// The number of goroutines does not depend on the number of keys.
func TestNoGoroutinePerKey(t *testing.T) {
	const few, many = 20, 2000
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	var sent etcdtest.Counter
	a := fltOpen(t, etcd.Client(0, sent.Option()), 10*time.Second)
	own := func(from, to int) {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				for n := from + i; n < to; n += 20 {
					if _, err := a.Get(fltContext(t), fmt.Sprint("k", n)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	own(0, few)
	before := runtime.NumGoroutine()
	own(few, many)
	if n := fltClaims(t, plain); n != many {
		t.Fatalf("%d claims", n)
	}
	quiet := sent.KV()
	own(0, many)
	if n := sent.KV() - quiet; n > 0 {
		t.Errorf("%d requests for reads of owned keys", n)
	}
	// The server's own come and go.
	fltUntil(t, fmt.Sprintf("%d goroutines with %d keys, as with %d", before, many, few),
		func() bool { return runtime.NumGoroutine() <= before+20 })
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if n := fltClaims(t, plain); n != 0 {
		t.Errorf("%d claims after Close", n)
	}
}

// Readers of a key do not hold up its writer, however eager they are.
func TestWriterNotStarved(t *testing.T) {
	const (
		puts = 8
		most = 6 // transactions for one put; two is what it takes
		all  = 2*2*puts + 4
	)
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	var sent etcdtest.Counter
	w := fltOpen(t, etcd.Client(0, sent.Option()), 5*time.Second)
	fltPut(t, w, "k", "0")
	var done atomic.Bool
	var written atomic.Int64 // the number of the latest put that has returned
	var reads atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		r := fltOpen(t, etcd.Client(0), 5*time.Second)
		for range 2 {
			wg.Go(func() {
				for !done.Load() {
					least := written.Load()
					resp, err := r.Get(fltContext(t), "k")
					if err != nil {
						t.Error(err)
						return
					}
					var got int64
					if _, err := fmt.Sscan(string(resp.Kvs[0].Value), &got); err != nil || got < least {
						t.Errorf("read %q after put %d (%v)", resp.Kvs[0].Value, least, err)
						return
					}
					reads.Add(1)
					time.Sleep(100 * time.Microsecond) // the machine is the writer's too
				}
			})
		}
	}
	worst, first := 0, sent.Of("Txn")
	put := func(i int64) {
		before := sent.Of("Txn")
		fltPut(t, w, "k", fmt.Sprint(i))
		written.Store(i)
		n := sent.Of("Txn") - before
		worst = max(worst, n)
		if n > most {
			t.Errorf("put %d took %d transactions", i, n)
		}
	}
	for i := range int64(puts) {
		fltUntil(t, "a reader owns the key", func() bool { c := fltClaim(t, plain, "k"); return c != nil && len(c.Value) == 0 })
		put(2*i + 1)
		put(2*i + 2) // at once, before the key has rested
	}
	done.Store(true)
	wg.Wait()
	if n := sent.Of("Txn") - first; n > all {
		t.Errorf("%d puts took %d transactions", 2*puts, n)
	}
	t.Logf("%d reads beside %d puts, of which none took more than %d transactions, %v", reads.Load(), 2*puts, worst, &sent)
}

// An etcd that answers "unavailable" at once, as a proxy in front of
// members that are away does, is not asked without a pause either.
func TestPausesWhileUnavailable(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	away := status.Error(codes.Unavailable, "away")
	fltPauses(t,
		func(_ *etcdtest.Cluster, r *etcdtest.Relay) { down.Store(true); r.Reset() },
		func(*etcdtest.Cluster, *etcdtest.Relay) { down.Store(false) },
		etcdtest.Intercept(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if down.Load() {
				return away
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		}),
		func(cfg *clientv3.Config) {
			cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainStreamInterceptor(
				func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
					if down.Load() {
						return nil, away
					}
					return open(ctx, desc, cc, method, opts...)
				}))
		})
}
