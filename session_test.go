package leasing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// rig is a KV on an etcd in memory, in virtual time, whose requests a test can
// tamper with.
type rig struct {
	t    *testing.T
	srv  *memetcd.Server
	conn *memetcd.Conn
	kv   *KV
	logs *observer.ObservedLogs
}

const rigTTL = 60 * time.Second

func onRig(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, conn := srv.Client("kv")
		core, logs := observer.New(zapcore.InfoLevel)
		kv, err := New(t.Context(), cl, Config{Prefix: "claims/", TTL: rigTTL, Logger: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		test(t, &rig{t: t, srv: srv, conn: conn, kv: kv, logs: logs})
	})
}

type next = func(context.Context) (proto.Message, error)

// on lets f decide what becomes of the KV's requests by one method.
func (r *rig) on(m memetcd.Method, f func(ctx context.Context, req proto.Message, do next) (proto.Message, error)) {
	r.conn.Intercept(func(ctx context.Context, call *memetcd.Call, do next) (proto.Message, error) {
		if call.Method == m {
			return f(ctx, call.Request, do)
		}
		return do(ctx)
	})
}

// get reads within a second and a half, and returns how long that took.
func (r *rig) get(key string) time.Duration {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 1500*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := r.kv.Get(ctx, key); err != nil {
		r.t.Errorf("reading %q: %v", key, err)
	}
	return time.Since(begin)
}

func (r *rig) wantOwned(keys ...string) {
	r.t.Helper()
	for _, k := range keys {
		if r.kv.cache.lookup(k) == nil {
			r.t.Errorf("%q is not owned", k)
		}
	}
}

// claims returns the keys that are claimed in etcd.
func (r *rig) claims() (keys []string) {
	r.t.Helper()
	resp, err := r.srv.NewClient("look").Get(r.t.Context(), "claims/", clientv3.WithPrefix())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		keys = append(keys, strings.TrimPrefix(string(kv.Key), "claims/"))
	}
	return keys
}

func (r *rig) sent() int { return r.conn.Sent()[memetcd.MethodTxn] }

// names reports whether a transaction mentions a key.
func names(req proto.Message, key string) bool {
	return strings.Contains(req.(*etcdserverpb.TxnRequest).String(), `"`+key+`"`)
}

// While the reply to a claim is missing, reads of other keys do not queue up
// behind it, and those that wait for it go to etcd after a while.
func TestReadsDoNotWaitForALostClaim(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.on(memetcd.MethodTxn, func(context.Context, proto.Message, next) (proto.Message, error) {
			return nil, memetcd.ErrLost
		})
		done := make(chan time.Duration)
		read := func(key string) { done <- r.get(key) }
		go read("sent")
		synctest.Wait()
		go read("queued")
		for range 2 {
			if d := <-done; d != patience {
				t.Errorf("the first readers took %v, want %v", d, patience)
			}
		}
		if d := r.get("later"); d != 0 {
			t.Errorf("with no reply for %v, a reader waited for %v", patience, d)
		}
		if n := r.sent(); n != 1 {
			t.Errorf("%d claims were sent", n)
		}
		r.conn.Intercept(nil)
		time.Sleep(callTimeout + time.Second) // the lost claim has failed, and its pause is over
		r.get("later")
		r.wantOwned("later")
	})
}

// A write that waits for a claim of ours that was not sent does not wait for
// those before it in the queue.
func TestWritesDoNotWaitForAQueuedClaim(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if names(req, "claims/lost") {
				return nil, memetcd.ErrLost
			}
			return do(ctx)
		})
		for _, key := range []string{"lost", "queued"} {
			go r.kv.Get(t.Context(), key)
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		if _, err := r.kv.Put(ctx, "queued", "v"); err != nil {
			t.Error(err)
		}
	})
}

// Invariant I14: what is queued when the watch goes down is not sent, and its
// readers do not wait for the reply that is owed to an earlier claim.
func TestI14QueuedClaimsAreNotSentWhileDeaf(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		held := make(chan struct{})
		r.on(memetcd.MethodTxn, func(ctx context.Context, _ proto.Message, do next) (proto.Message, error) {
			<-held
			return do(ctx)
		})
		go r.kv.Get(t.Context(), "sent")
		synctest.Wait()
		done := make(chan time.Duration)
		go func() { done <- r.get("queued") }()
		synctest.Wait()
		r.kv.session.deafen(errors.New("the test says so"))
		if d := <-done; d != 0 {
			t.Errorf("its reader waited for %v", d)
		}
		if d := r.get("later"); d != 0 {
			t.Errorf("a later reader waited for %v", d)
		}
		close(held)
		synctest.Wait()
		if n := r.sent(); n != 1 {
			t.Errorf("%d claims were sent, 1 of them before", n)
		}
	})
}

// Invariant I14: a watch that says nothing while renewals succeed is given up
// with everything owned, and nothing is claimed until another one runs.
func TestI14NothingIsClaimedUnderASilentWatch(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.get("k")
		r.wantOwned("k")
		r.conn.DelayWatch(time.Hour)
		time.Sleep(deafness + time.Second)
		if r.get("other"); slices.Contains(r.claims(), "other") {
			t.Error("a key was claimed after too long a silence")
		}
		time.Sleep(2 * rigTTL) // renewals go on, and tell that etcd is there
		if keys := r.claims(); len(keys) > 0 {
			t.Errorf("still claimed: %q", keys)
		}
		if n := r.logs.FilterMessageSnippet("silent").Len(); n != 1 {
			t.Errorf("logged %d times", n)
		}
		before := r.sent()
		for range 100 {
			r.get("k")
			time.Sleep(time.Second)
		}
		if n := r.sent() - before; n > 0 {
			t.Errorf("%d claims were sent", n)
		}
		r.conn.DelayWatch(0)
		time.Sleep(time.Hour) // what was late arrives
		r.get("k")
		r.wantOwned("k")
	})
}

// Invariant I14: after an outage that has cost all leases, none is granted
// before the watch has given a sign of life.
func TestI14NoLeaseBeforeTheWatchIsBack(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.conn.Cut(memetcd.Both)
		time.Sleep(2 * rigTTL)
		before := r.conn.Sent()[memetcd.MethodLeaseGrant]
		r.conn.DelayWatch(time.Minute)
		r.conn.Heal()
		time.Sleep(50 * time.Second)
		if n := r.conn.Sent()[memetcd.MethodLeaseGrant] - before; n > 0 {
			t.Errorf("%d leases were asked for", n)
		}
		time.Sleep(20 * time.Second)
		r.get("k")
		r.wantOwned("k")
	})
}

// A listing of several pages survives a compaction between them, and does not
// miss what it must show.
func TestI5ListingInPages(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		plain := r.srv.NewClient("plain")
		for i := range listPage + 2 {
			if _, err := plain.Put(t.Context(), fmt.Sprintf("claims/%06d", i), ""); err != nil {
				t.Fatal(err)
			}
		}
		first := r.srv.Revision()
		pages := 0
		r.on(memetcd.MethodRange, func(ctx context.Context, _ proto.Message, do next) (proto.Message, error) {
			if pages++; pages == 2 {
				for _, key := range []string{"claims/000000", "claims/999999"} { // behind and ahead of the listing
					if _, err := plain.Put(t.Context(), key, ""); err != nil {
						t.Fatal(err)
					}
				}
				if err := r.srv.Compact(r.srv.Revision()); err != nil {
					t.Fatal(err)
				}
			}
			return do(ctx)
		})
		listing, rev, err := r.kv.session.list(t.Context(), keyRange{"claims/", "claims0"})
		if err != nil {
			t.Fatal(err)
		}
		if pages != 2 || rev != first {
			t.Errorf("%d pages as of %d, want 2 as of %d, that of the first", pages, rev, first)
		}
		for i := range listPage + 2 {
			if want := fmt.Sprintf("%06d", i); listing[i].key != want {
				t.Fatalf("claim %d is of %q, want %q", i, listing[i].key, want)
			}
		}
	})
}

// A batch that etcd refuses is sent one by one, and only the one at fault
// suffers for it.
func TestOneRefusedClaimHarmsNoOther(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.conn.Deny(func(key, _ []byte, _ bool) bool { return string(key) == "b" })
		r.readTogether("a", "b", "c")
		r.wantOwned("a", "c")
		if r.kv.cache.lookup("b") != nil {
			t.Error("a key that may not be read is owned")
		}
		if n := r.logs.FilterMessageSnippet("refuses a claim").Len(); n != 1 {
			t.Errorf("logged %d times", n)
		}
		time.Sleep(deniedPause)
		if _, err := r.kv.Get(t.Context(), "b"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			t.Errorf("reading it gives %v", err)
		}
		if n := r.logs.FilterMessageSnippet("refuses a claim").Len(); n != 1 {
			t.Errorf("logged %d times after all", n)
		}
	})
}

// readTogether has keys claimed in one batch.
func (r *rig) readTogether(keys ...string) {
	r.t.Helper()
	r.interceptBatch(keys...)(func(ctx context.Context, _ proto.Message, do next) (proto.Message, error) {
		return do(ctx)
	})
}

// When claims are sent one by one after a refusal, the first that gets no
// answer ends it: the others are not sent into the void for five seconds each.
func TestLostClaimEndsItsBatch(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		var sent []string
		r.interceptBatch("a", "b", "c", "d")(func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if !strings.Contains(req.(*etcdserverpb.TxnRequest).String(), "request_put") {
				return do(ctx) // a yield
			}
			for _, k := range []string{"a", "b", "c", "d"} {
				if names(req, "claims/"+k) {
					sent = append(sent, k)
				}
			}
			if names(req, "claims/a") && names(req, "claims/b") {
				return nil, rpctypes.ErrGRPCTooManyOps // refused as a whole
			}
			if names(req, "claims/b") {
				return nil, memetcd.ErrLost
			}
			return do(ctx)
		})
		time.Sleep(callTimeout)
		synctest.Wait()
		if got := strings.Join(sent, ""); got != "abcd"+"ab" {
			t.Errorf("sent %q", got)
		}
		r.wantOwned("a")
		r.conn.Intercept(nil)
		time.Sleep(time.Second)
		r.readTogether("b", "c", "d")
		time.Sleep(time.Second)
		r.readTogether("b", "c", "d")
		r.wantOwned("b", "c", "d")
	})
}

// A lease that etcd no longer has when claims are sent one by one is dropped,
// and the claims go on another.
func TestLeaseGoneBetweenClaims(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		lost := r.kv.session.leases[0].id
		r.interceptBatch("a", "b", "c")(func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			switch {
			case names(req, "claims/a") && names(req, "claims/b"):
				return nil, rpctypes.ErrGRPCTooManyOps
			case names(req, "claims/b"):
				if _, err := r.srv.NewClient("operator").Revoke(ctx, lost); err != nil {
					r.t.Error(err)
				}
			}
			return do(ctx)
		})
		r.conn.Intercept(nil)
		time.Sleep(time.Second)
		r.readTogether("a", "b", "c")
		r.wantOwned("a", "b", "c")
		if id := r.kv.cache.lookup("a").lease.id; id == lost {
			t.Error("a claim hangs on the lost lease")
		}
	})
}

// interceptBatch returns a function that has keys claimed in one batch, while
// its argument decides on all transactions but the one that holds them up.
func (r *rig) interceptBatch(keys ...string) func(func(context.Context, proto.Message, next) (proto.Message, error)) {
	return func(f func(context.Context, proto.Message, next) (proto.Message, error)) {
		held, first := make(chan struct{}), fmt.Sprint("first of ", r.sent())
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if names(req, "claims/"+first) {
				<-held
				return do(ctx)
			}
			return f(ctx, req, do)
		})
		for _, k := range append([]string{first}, keys...) {
			go r.kv.Get(r.t.Context(), k)
			synctest.Wait()
		}
		close(held)
		synctest.Wait()
	}
}

// ownOnLeases makes the KV own 4 n keys on n leases; it returns the leases.
func (r *rig) ownOnLeases(n int) []*lease {
	r.t.Helper()
	r.kv.session.perLease = 4
	for i := range 4 * n {
		r.get(fmt.Sprint(i))
		synctest.Wait() // a lease is added when there is no more room
		r.get(fmt.Sprint(i))
	}
	for i := range 4 * n {
		r.wantOwned(fmt.Sprint(i))
	}
	return r.kv.session.leases
}

// Close revokes every lease that it can, whatever becomes of one of them.
func TestCloseGoesOnAfterARefusedRevoke(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		stays := int64(r.ownOnLeases(3)[0].id)
		r.on(memetcd.MethodLeaseRevoke, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if req.(*etcdserverpb.LeaseRevokeRequest).ID == stays {
				return nil, rpctypes.ErrGRPCPermissionDenied
			}
			return do(ctx)
		})
		r.kv.Close()
		if left := strings.Join(r.claims(), ""); left != "0123" {
			t.Errorf("claims of %q are left, want those on the lease that was not revoked", left)
		}
	})
}

// With etcd away, Close waits for one reply and not for one a lease.
func TestCloseWithEtcdAwayIsBounded(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.ownOnLeases(4)
		r.conn.Cut(memetcd.Both)
		begin := time.Now()
		r.kv.Close()
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}
