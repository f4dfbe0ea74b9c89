package integration_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// fltCloseLimit is within what Close returns, whatever the server does.
const fltCloseLimit = 3 * time.Second

// A lease that the caller handed in is kept alive, carries no claims
// and survives Close. When it is gone, nothing is owned any more.
func TestHandedInLease(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	grant, err := plain.Grant(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	granted := time.Now()
	var sent etcdtest.Counter
	kv, closeKV, err := leasing.NewKV(etcd.Client(0, sent.Option()), fltPrefix, concurrency.WithLease(grant.ID), concurrency.WithTTL(5))
	if err != nil {
		t.Fatal(err)
	}
	defer closeKV()
	fltPut(t, kv, "k", "1")
	fltOwn(t, kv, &sent, "k")
	alive := func(when string) {
		t.Helper()
		ttl, err := plain.TimeToLive(fltContext(t), grant.ID, clientv3.WithAttachedKeys())
		if err != nil || ttl.TTL < 0 || len(ttl.Keys) > 0 {
			t.Fatalf("%s the lease that was handed in is %v, %v", when, ttl, err)
		}
	}
	for time.Since(granted) < 3*time.Second { // three times what it lasts by itself
		alive("while the KV is open")
		time.Sleep(50 * time.Millisecond)
	}
	fltOwn(t, kv, &sent, "k")
	if c := fltClaim(t, plain, "k"); c == nil || c.Lease == 0 || c.Lease == int64(grant.ID) {
		t.Errorf("the claim is %v", c)
	}
	closeKV()
	alive("after Close")
	if n := fltClaims(t, plain); n != 0 {
		t.Errorf("%d claims after Close", n)
	}

	grant, err = plain.Grant(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	kv, closeAgain, err := leasing.NewKV(etcd.Client(0, sent.Option()), fltPrefix, concurrency.WithLease(grant.ID))
	if err != nil {
		t.Fatal(err)
	}
	defer closeAgain()
	fltOwn(t, kv, &sent, "k")
	if _, err := plain.Revoke(t.Context(), grant.ID); err != nil {
		t.Fatal(err)
	}
	fltUntil(t, "nothing is owned", func() bool { return fltClaims(t, plain) == 0 })
	fltPut(t, kv, "k", "2")
	fltAgree(t, "k", "2", kv, plain)
}

// Close hands everything over: the next writer needs one transaction
// for each key. To close twice, or from several sides, is harmless.
func TestCloseHandsOver(t *testing.T) {
	const keys = 200
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	var sentA, sentB etcdtest.Counter
	a := fltOpen(t, etcd.Client(0, sentA.Option()), time.Minute)
	b := fltOpen(t, etcd.Client(0, sentB.Option()), time.Minute)
	for i := range keys {
		fltGet(t, a, fmt.Sprint("k", i))
	}
	if n := fltClaims(t, plain); n != keys {
		t.Fatalf("%d claims", n)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if n := fltClaims(t, plain); n != 0 {
		t.Errorf("%d claims after Close", n)
	}
	// Until b's watch has told that the claims are gone, b may ask for a key in vain.
	// It tells of things in order, and of this one last.
	fltOwn(t, b, &sentB, "last")
	if _, err := plain.Put(fltContext(t), fltPrefix+"last", "REVOKE", clientv3.WithIgnoreLease()); err != nil {
		t.Fatal(err)
	}
	fltUntil(t, "b's watch has told of everything", func() bool { return fltClaims(t, plain) == 0 })
	before := sentB.KV()
	for i := range keys {
		fltPut(t, b, fmt.Sprint("k", i), "1")
	}
	if n := sentB.KV() - before; n != keys {
		t.Errorf("%d puts after Close took %d requests", keys, n)
	}
}

// fltOperations are all operations of a KV.
func fltOperations(kv clientv3.KV) map[string]func(context.Context) error {
	do := func(op clientv3.Op) func(context.Context) error {
		return func(ctx context.Context) error { _, err := kv.Do(ctx, op); return err }
	}
	get, put, del := clientv3.OpGet("k"), clientv3.OpPut("k", "v"), clientv3.OpDelete("k")
	return map[string]func(context.Context) error{
		"Get":               func(ctx context.Context) error { _, err := kv.Get(ctx, "k"); return err },
		"Get of a range":    func(ctx context.Context) error { _, err := kv.Get(ctx, "k", clientv3.WithPrefix()); return err },
		"GetStream":         func(ctx context.Context) error { _, err := kv.GetStream(ctx, "k"); return err },
		"Put":               func(ctx context.Context) error { _, err := kv.Put(ctx, "k", "v"); return err },
		"Delete":            func(ctx context.Context) error { _, err := kv.Delete(ctx, "k"); return err },
		"Delete of a range": func(ctx context.Context) error { _, err := kv.Delete(ctx, "k", clientv3.WithPrefix()); return err },
		"Compact":           func(ctx context.Context) error { _, err := kv.Compact(ctx, 1); return err },
		"Do get":            do(get),
		"Do put":            do(put),
		"Do delete":         do(del),
		"Do txn":            do(clientv3.OpTxn(nil, []clientv3.Op{put}, nil)),
		"Txn that reads":    func(ctx context.Context) error { _, err := kv.Txn(ctx).Then(get).Commit(); return err },
		"Txn that writes":   func(ctx context.Context) error { _, err := kv.Txn(ctx).Then(put).Commit(); return err },
		"Txn with nothing":  func(ctx context.Context) error { _, err := kv.Txn(ctx).Commit(); return err },
	}
}

// With the server away Close returns within 3 s, and after it every
// operation gives ErrClosed and sends nothing. What waits gets it, too.
func TestCloseWithServerAway(t *testing.T) {
	for name, away := range map[string]func(*etcdtest.Relay){
		"silent":  func(r *etcdtest.Relay) { r.Cut() },
		"refused": func(r *etcdtest.Relay) { r.Refuse(); r.Reset() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			etcd := etcdtest.Start(t, etcdtest.QuickTicks())
			relay, other := etcd.Relay(0), etcd.Relay(0)
			var sent, sentB etcdtest.Counter
			var asked atomic.Bool // and answered: what is under way may stay so after Close
			answers := etcdtest.Intercept(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				err := invoke(ctx, method, req, reply, cc, opts...)
				if r, ok := req.(*pb.TxnRequest); ok && fltMayWrite(r, "foreign") {
					asked.Store(true)
				}
				return err
			})
			kv := fltOpen(t, etcd.ClientVia(relay, sent.Option(), answers), 5*time.Second)
			b := fltOpen(t, etcd.ClientVia(other, sentB.Option()), time.Minute)
			fltPut(t, kv, "k", "v")
			fltOwn(t, kv, &sent, "k")
			fltOwn(t, b, &sentB, "foreign")
			other.Cut() // b gives nothing back
			defer other.Heal()
			waits := make(chan error)
			go func() {
				_, err := kv.Put(t.Context(), "foreign", "v")
				waits <- err
			}()
			fltUntil(t, "a writer waits", asked.Load)
			if c := fltClaim(t, etcd.Client(0), "foreign"); c == nil || string(c.Value) != "REVOKE" {
				t.Errorf("b's claim is %v", c)
			}
			away(relay)
			began := time.Now()
			if err := kv.Close(); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > fltCloseLimit {
				t.Errorf("Close took %v", took)
			}
			select {
			case err := <-waits:
				if !errors.Is(err, leasing.ErrClosed) {
					t.Errorf("a writer that waits: %v", err)
				}
			case <-time.After(fltPatience):
				t.Error("a writer waits on after Close")
			}
			before := sent.KV()
			for name, op := range fltOperations(kv) {
				if err := op(fltContext(t)); !errors.Is(err, leasing.ErrClosed) {
					t.Errorf("%s after Close: %v", name, err)
				}
			}
			if n := sent.KV() - before; n != 0 {
				t.Errorf("%d requests after Close", n)
			}
			relay.Heal()
			if err := relay.Accept(); err != nil {
				t.Error(err)
			}
		})
	}
}

// After Close no goroutine is left, nor after a New that fails.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	relay := etcd.Relay(0)
	cl := etcd.ClientVia(relay)
	other := etcd.Client(0)
	for _, c := range []*clientv3.Client{cl, other} { // connects
		fltPut(t, c, "k", "v")
	}
	cfg := leasing.Config{Prefix: fltPrefix, TTL: 5 * time.Second}
	before := goleak.IgnoreCurrent()
	gone := func(what string) {
		t.Helper()
		// What the server had for it ends a little later.
		var err error
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
			if err = goleak.Find(before); err == nil {
				return
			}
		}
		t.Errorf("%s: %v", what, err)
	}
	kv, err := leasing.New(t.Context(), cl, cfg)
	if err != nil {
		t.Fatal(err)
	}
	b, err := leasing.New(t.Context(), other, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			key := fmt.Sprint("k", i%10)
			for _, kv := range []clientv3.KV{kv, b} {
				if _, err := kv.Get(fltContext(t), key); err != nil {
					t.Error(err)
				}
				if _, err := kv.Put(fltContext(t), key, "v"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	// Some of these are under way when it is closed.
	for i := range 50 {
		wg.Go(func() {
			_, err := kv.Get(fltContext(t), fmt.Sprint("l", i))
			if err != nil && !errors.Is(err, leasing.ErrClosed) {
				t.Error(err)
			}
		})
	}
	_ = kv.Close()
	wg.Wait()
	_ = b.Close()
	gone("after Close")

	relay.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := leasing.New(ctx, cl, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("New through a cut link: %v", err)
	}
	relay.Heal()
	// etcd's client keeps the stream of a watch that was cancelled before it was
	// confirmed, until the client is closed; none of it is ours.
	fltUntil(t, "nothing of ours is left after a New that failed", func() bool {
		stacks := make([]byte, 4<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "github.com/etcd-leasing/leasing.(")
	})
}

// Without a server New returns when its context ends.
func TestNewWithoutServer(t *testing.T) {
	for name, away := range map[string]func(*etcdtest.Relay){
		"silent":  func(r *etcdtest.Relay) { r.Cut() },
		"refused": func(r *etcdtest.Relay) { r.Refuse() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			etcd := etcdtest.Start(t, etcdtest.QuickTicks())
			relay := etcd.Relay(0)
			away(relay)
			cl := etcd.ClientVia(relay)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			kv, err := leasing.New(ctx, cl, leasing.Config{Prefix: fltPrefix})
			if kv != nil || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("New gives %v, %v", kv, err)
			}
			ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			got, closeKV, err := leasing.NewKV(cl, fltPrefix, concurrency.WithContext(ctx))
			if got != nil || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("NewKV gives %v, %v", got, err)
			}
			closeKV()
		})
	}
}

// An empty prefix is refused, with an error that says so.
func TestEmptyPrefix(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	var sent etcdtest.Counter
	cl := etcd.Client(0, sent.Option())
	_, err := leasing.New(t.Context(), cl, leasing.Config{})
	_, closeKV, errNewKV := leasing.NewKV(cl, "")
	closeKV()
	for _, err := range []error{err, errNewKV} {
		if err == nil || !strings.Contains(err.Error(), "Prefix is empty") {
			t.Errorf("an empty prefix: %v", err)
		}
	}
	if sent.String() != "" {
		t.Errorf("it has sent %v", &sent)
	}
}
