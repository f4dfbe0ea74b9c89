package leasing

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// Old news of another's claim on a key that is ours by now: a write of ours does not
// ask for it.
func TestOurOwnClaimIsNotAskedFor(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", 0)
		r.conn.DelayWatch(time.Second)
		if _, err := a.Get(t.Context(), "k"); err != nil { // a's claim, at our watch in 1 s
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		a.Close() // its end, at our watch in 1.5 s
		r.get("k")
		r.wantOwned("k")
		time.Sleep(600 * time.Millisecond) // at 1.1 s: the claim was told, its end was not
		r.wantOwned("k")
		before, begin := r.sent(), time.Now()
		if _, err := r.kv.Put(t.Context(), "k", "v"); err != nil {
			t.Fatal(err)
		}
		if n, d := r.sent()-before, time.Since(begin); n != 1 || d != 0 {
			t.Errorf("a put of an owned key took %d requests and %v", n, d)
		}
		time.Sleep(3 * time.Second)
		r.wantOwned("k")
	})
}

// Nor while a claim of ours is under way.
func TestOurOwnClaimUnderWayIsNotAskedFor(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", 0)
		r.conn.DelayWatch(time.Second)
		if _, err := a.Get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		a.Close()
		held := make(chan struct{})
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			resp, err := do(ctx)
			if names(req, "k") {
				<-held
			}
			return resp, err
		})
		go r.kv.Get(t.Context(), "k") // claim made, reply held
		time.Sleep(600 * time.Millisecond)
		put := make(chan error, 1)
		go func() { _, err := r.kv.Put(t.Context(), "k", "v"); put <- err }()
		synctest.Wait()
		plain := r.srv.NewClient("plain")
		resp, err := plain.Get(t.Context(), "claims/k")
		if err != nil {
			t.Fatal(err)
		}
		if string(resp.Kvs[0].Value) != "" {
			t.Errorf("our own claim under way holds %q", resp.Kvs[0].Value)
		}
		close(held)
		if err := <-put; err != nil {
			t.Error(err)
		}
	})
}

// A write whose context has ended does not take the key from its owner.
func TestWriteThatIsOverAsksForNothing(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", 0)
		defer a.Close()
		a.Get(t.Context(), "k")
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := r.kv.Put(ctx, "k", "v")
		t.Log(err)
		synctest.Wait()
		time.Sleep(time.Second)
		if a.cache.lookup("k") == nil {
			t.Error("a write that was never to be sent has taken the key from its owner")
		}
		if err != context.Canceled {
			t.Errorf("error: %v", err)
		}
	})
}

// Nor does one that etcd refuses for its size.
func TestWriteThatIsTooLargeAsksForNothing(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", 0)
		defer a.Close()
		a.Get(t.Context(), "k")
		synctest.Wait()
		_, err := r.kv.Put(t.Context(), "k", string(make([]byte, 2<<20)))
		t.Log(err)
		time.Sleep(100 * time.Millisecond)
		if a.cache.lookup("k") == nil {
			t.Error("a put that is too large has taken the key from its owner")
		}
	})
}

// What is known may be old. A write that is in a hurry is sent as it is.
func TestWriterInAHurryDoesNotAskFirst(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", 0)
		a.Get(t.Context(), "k")
		synctest.Wait()
		r.conn.DelayWatch(10 * time.Second)
		a.Close()
		r.conn.SetLatency(10 * time.Millisecond) // a round trip is 20 ms
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		if _, err := r.kv.Put(ctx, "k", "v"); err != nil {
			t.Errorf("a put of a key that nobody owns, which takes 20 ms: %v", err)
		}
	})
}

// putsOfAFreeKey puts k, which nobody owns, five times. One put may ask for it.
func (r *rig) putsOfAFreeKey() {
	r.t.Helper()
	before := r.sent()
	for range 5 {
		if _, err := r.kv.Put(r.t.Context(), "k", "v"); err != nil {
			r.t.Error(err)
		}
	}
	if n := r.sent() - before; n > 6 {
		r.t.Errorf("5 puts of a key that nobody owns took %d requests", n)
	}
}

// A key that is found to be free while the watch lags is not asked for again.
func TestKeyThatIsFoundFreeIsNotAskedForAgain(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", 0)
		a.Get(t.Context(), "k")
		synctest.Wait()
		r.conn.DelayWatch(9 * time.Second)
		a.Close()
		r.putsOfAFreeKey()
	})
}

// An ask that is queued while etcd does not answer is not sent when its writer is done:
// the key may be ours by then.
func TestAskDoesNotOutliveItsWriter(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", 0)
		defer a.Close()
		for _, k := range []string{"x", "y", "k"} {
			a.Get(t.Context(), k)
		}
		synctest.Wait()
		lost := true
		isAsk := func(req proto.Message, k string) bool { return !names(req, k) && names(req, "claims/"+k) }
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if lost && (isAsk(req, "x") || isAsk(req, "y")) {
				return nil, memetcd.ErrLost
			}
			return do(ctx)
		})
		for _, k := range []string{"x", "y"} {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				defer cancel()
				r.kv.Put(ctx, k, "v")
			}()
			synctest.Wait()
		}
		// Both loops wait for a reply now, for a second.
		begin := time.Now()
		if _, err := r.kv.Put(t.Context(), "k", "v"); err != nil {
			t.Fatal(err)
		}
		t.Log("put took", time.Since(begin))
		time.Sleep(300 * time.Millisecond) // the rest
		r.get("k")
		r.wantOwned("k")
		time.Sleep(time.Until(begin.Add(1100 * time.Millisecond)))
		r.wantOwned("k")
	})
}

// What is left of a batch for the next lease is not claimed all or none if it is too
// much for etcd.
func TestRestOfABatchFitsOneRequest(t *testing.T) {
	onRigOf(t, Config{perLease: 130}, func(t *testing.T, r *rig) {
		kv2, _ := r.other("kv2", 0)
		defer kv2.Close()
		r.conn.DelayWatch(time.Second) // else we know what is another's
		for i := range pipeline {
			kv2.Get(t.Context(), fmt.Sprint("foreign", i))
		}
		for i := range 98 { // fill the first lease but for some
			r.get(fmt.Sprintf("f%03d", i))
		}
		time.Sleep(20 * time.Millisecond)
		held := make(chan struct{})
		var mu sync.Mutex // guards these
		var sizes []int
		refusals := 0
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if names(req, "claims/foreign0") || names(req, "claims/foreign1") {
				<-held
			}
			tx := req.(*etcdserverpb.TxnRequest)
			resp, err := do(ctx)
			mu.Lock()
			defer mu.Unlock()
			sizes = append(sizes, max(len(tx.Compare), len(tx.Success)))
			if err != nil {
				refusals++
				t.Logf("%d comparisons, %d operations: %v", len(tx.Compare), len(tx.Success), err)
			}
			return resp, err
		})
		r.fillPipeline("foreign", func(key string) { r.kv.Get(t.Context(), key) })
		for i := range 100 {
			go r.kv.Get(t.Context(), fmt.Sprintf("k%03d", i))
		}
		synctest.Wait()
		close(held)
		synctest.Wait()
		if refusals > 0 || len(sizes) > 10 {
			t.Errorf("claims of 100 keys were refused %d times, and took %d requests of sizes %v", refusals, len(sizes), sizes)
		}
	})
}

// Nor while the watch is refused, from which the end of the claim could be known.
func TestKeyThatIsFoundFreeWithoutAWatch(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", 0)
		a.Get(t.Context(), "k")
		synctest.Wait()
		r.conn.Deny(func(key, end []byte, write bool) bool { return len(end) > 0 })
		r.conn.Reset()
		time.Sleep(time.Minute)
		a.Close()
		time.Sleep(10 * time.Minute)
		r.putsOfAFreeKey()
	})
}

// Six cold keys that are asked for at once count once: a hot key that is new is claimed
// soon.
func TestUsualRestIsNotThatOfOneMoment(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		b, _ := r.other("b", 0)
		defer b.Close()
		c, _ := r.other("c", 0)
		defer c.Close()
		for i := range 6 {
			r.get(fmt.Sprint("cold", i))
		}
		if _, err := b.Delete(t.Context(), "cold", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		c.Get(t.Context(), "hot")
		synctest.Wait()
		if _, err := b.Put(t.Context(), "hot", "v"); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for r.kv.cache.lookup("hot") == nil {
			r.get("hot")
			time.Sleep(2 * time.Millisecond)
		}
		if d := time.Since(begin); d > time.Second {
			t.Errorf("a hot key was owned after %v", d)
		}
	})
}

// Close while hundreds of writers ask for keys whose owner is away.
func TestCloseWhileAsking(t *testing.T) {
	{
		onRig(t, func(t *testing.T, r *rig) {
			a, ac := r.other("a", 0)
			defer a.Close()
			for i := range 300 {
				a.Get(t.Context(), fmt.Sprint("k", i))
			}
			synctest.Wait()
			ac.Cut(memetcd.Both)
			defer ac.Heal()
			done := make(chan error, 300)
			for i := range 300 {
				go func() { _, err := r.kv.Put(t.Context(), fmt.Sprint("k", i), "v"); done <- err }()
			}
			time.Sleep(30 * time.Millisecond)
			begin := time.Now()
			r.kv.Close()
			t.Log(time.Since(begin))
			for range 300 {
				if err := <-done; !errors.Is(err, ErrClosed) {
					t.Fatal(err)
				}
			}
			r.kv.session.waiters.mu.Lock()
			defer r.kv.session.waiters.mu.Unlock()
			if n := len(r.kv.session.waiters.m); n > 0 {
				t.Errorf("%d waiters are left", n)
			}
		})
	}
}

// A client that may ask for a key and may not write it does not keep it from its
// owner, however often it tries.
func TestDeniedWriterAsksSeldom(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, ac := r.other("a", 0)
		defer a.Close()
		r.conn.Deny(func(key, _ []byte, write bool) bool { return write && string(key) == "k" })
		ctx, stop := context.WithTimeout(t.Context(), 60*time.Second)
		defer stop()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				r.kv.Put(ctx, "k", "v")
				time.Sleep(100 * time.Millisecond)
			}
		}()
		before, reads := ac.Sent(), 0
		for ctx.Err() == nil {
			a.Get(ctx, "k")
			reads++
			time.Sleep(50 * time.Millisecond)
		}
		<-done
		after := ac.Sent()
		n := after[memetcd.MethodTxn] + after[memetcd.MethodRange] - before[memetcd.MethodTxn] - before[memetcd.MethodRange]
		if n > 10 {
			t.Errorf("%d of %d reads of the owner's went to etcd, though nobody has written", n, reads)
		}
	})
}

// Asks that are queued while etcd is away are not sent when it is back and nobody waits
// for them any more.
func TestAsksDoNotOutliveAnOutage(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", 0)
		defer a.Close()
		const n = 1000
		for i := range n {
			a.Get(t.Context(), fmt.Sprint("k", i))
		}
		synctest.Wait()
		r.conn.Cut(memetcd.Requests)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				if _, err := r.kv.Put(ctx, fmt.Sprint("k", i), "v"); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		time.Sleep(1500 * time.Millisecond)
		r.conn.Heal()
		time.Sleep(2 * time.Second)
		lost := 0
		for i := range n {
			if a.cache.lookup(fmt.Sprint("k", i)) == nil {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("%d of %d keys were taken from their owner seconds after the last write had failed", lost, n)
		}
	})
}

// More writers than go into the requests that are under way do not wait for these over
// a distance.
func TestManyDistantWritersAskThemselves(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", time.Millisecond)
		defer a.Close()
		const n = 3000
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { a.Get(t.Context(), fmt.Sprint("k", i)) })
		}
		wg.Wait()
		time.Sleep(time.Second)
		r.conn.SetLatency(20 * time.Millisecond)
		before, begin := r.sent(), time.Now()
		for i := range n {
			wg.Go(func() { r.kv.Put(t.Context(), fmt.Sprint("k", i), "v") })
		}
		wg.Wait()
		d := time.Since(begin)
		time.Sleep(2 * time.Second)
		t.Logf("%d requests for %d puts, %v", r.sent()-before, n, d)
		if r.sent()-before > 2*n+100 {
			t.Errorf("too many")
		}
	})
}

// A key that may not be asked for does not keep others from being asked for.
func TestKeyThatIsDeniedIsNotAskedFor(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", 0)
		defer a.Close()
		a.Get(t.Context(), "secret")
		for i := range 5 {
			a.Get(t.Context(), fmt.Sprint("k", i))
		}
		synctest.Wait()
		r.conn.Deny(func(key, _ []byte, write bool) bool { return string(key) == "claims/secret" })
		for i := range 5 {
			r.kv.Put(t.Context(), "secret", "v") // fails
			before := r.sent()
			if _, err := r.kv.Delete(t.Context(), fmt.Sprint("k", i)); err != nil {
				t.Error(err)
			}
			if n := r.sent() - before; n != 2 {
				t.Errorf("a delete of another's key took %d requests", n)
			}
			time.Sleep(3 * time.Second)
		}
	})
}

// A few writers over a distance do not wait for each other's requests.
func TestFewDistantWritersDoNotQueue(t *testing.T) {
	for _, oneWay := range []time.Duration{5, 20, 40, 75, 150} {
		t.Run(fmt.Sprint(oneWay*time.Millisecond), func(t *testing.T) {
			onRig(t, func(t *testing.T, r *rig) {
				a, _ := r.other("a", time.Millisecond)
				defer a.Close()
				const n = 10
				for i := range n {
					a.Get(t.Context(), fmt.Sprint("k", i))
				}
				time.Sleep(time.Second)
				r.conn.SetLatency(oneWay * time.Millisecond)
				var wg sync.WaitGroup
				before, begin := r.sent(), time.Now()
				var mu sync.Mutex
				var sum, worst time.Duration
				for i := range n {
					wg.Go(func() {
						r.kv.Put(t.Context(), fmt.Sprint("k", i), "v")
						mu.Lock()
						defer mu.Unlock()
						d := time.Since(begin)
						sum, worst = sum+d, max(worst, d)
					})
				}
				wg.Wait()
				time.Sleep(2 * time.Second)
				t.Logf("round trip %v: %d requests for %d puts, mean %v, worst %v", 2*oneWay*time.Millisecond, r.sent()-before, n, sum/n, worst)
				if limit := 4*oneWay*time.Millisecond + 10*time.Millisecond; worst > limit || r.sent()-before > 2*n {
					t.Errorf("worst %v, want at most two round trips, %v; %d requests, want at most %d", worst, limit, r.sent()-before, 2*n)
				}
			})
		})
	}
}

// A batch of which one key has been asked for already takes two requests, and each may
// take its time.
func TestAskOfTwoRequests(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, ac := r.other("a", 0)
		defer a.Close()
		for _, k := range []string{"x", "k"} {
			a.Get(t.Context(), k)
		}
		synctest.Wait()
		ac.DelayWatch(time.Hour)
		defer ac.DelayWatch(0)
		root := r.srv.NewClient("root")
		root.Put(t.Context(), "claims/x", "REVOKE", clientv3.WithIgnoreLease())
		synctest.Wait()
		r.conn.SetLatency(280 * time.Millisecond)
		r.kv.session.ask([]string{"x", "k"})
		time.Sleep(5 * time.Second)
		if !r.kv.session.ask(nil) || time.Now().Before(r.kv.cache.entries.get("k").pause.quiet) {
			t.Error("muted by a slow etcd that answers")
		}
	})
}

// A REVOKE that a writer sends itself is given as much time as the writer has: the
// session's own timeouts are not the caller's.
func TestWriterMayWaitLongToAsk(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		a, _ := r.other("a", 0)
		defer a.Close()
		r.conn.DelayWatch(time.Minute) // the owner is not known
		a.Get(t.Context(), "k")
		const late = 2 * callTimeout
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if !names(req, "k") { // it is about the claim alone
				select {
				case <-time.After(late):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return do(ctx)
		})
		begin := time.Now()
		if _, err := r.kv.Delete(t.Context(), "k"); err != nil {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		if d := time.Since(begin); d < late {
			t.Errorf("it took %v, so nobody was asked", d)
		}
	})
}

// A put does not ask ourselves for a claim that is left of a lease that we gave up.
func TestPutsDoNotAskForWhatIsLeftOfOurOwn(t *testing.T) {
	var revoked []string
	onRigOf(t, Config{OnEvent: func(e Event) {
		if e.Kind == KeyRevoked {
			revoked = append(revoked, e.Key)
		}
	}}, func(t *testing.T, r *rig) {
		r.get("k")
		r.wantOwned("k")
		r.on(memetcd.MethodLeaseRevoke, func(ctx context.Context, _ proto.Message, _ next) (proto.Message, error) {
			<-ctx.Done() // it takes long
			return nil, ctx.Err()
		})
		s := r.kv.session
		s.mu.Lock()
		l := s.leases[0]
		s.mu.Unlock()
		s.drop(l, "its deadline has passed")
		r.put("k", "w")
		time.Sleep(time.Second)
		synctest.Wait()
		if n := r.kv.Stats().RevokesSent; n > 0 || len(revoked) > 0 {
			t.Errorf("%d REVOKEs were sent, and told of: %q", n, revoked)
		}
		r.get("k")
		r.get("k")
		r.wantOwned("k")
	})
}
