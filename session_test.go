package leasing

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// While the reply to a claim is missing, reads of other keys do not queue up
// behind it, and those that wait for it go to etcd after a while.
func TestReadsDoNotWaitForALostClaim(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.on(memetcd.MethodTxn, func(context.Context, proto.Message, next) (proto.Message, error) {
			return nil, memetcd.ErrLost
		})
		done := make(chan time.Duration)
		r.fillPipeline("sent", func(key string) { done <- r.get(key) })
		go func() { done <- r.get("queued") }()
		for range pipeline + 1 {
			if d := <-done; d != patience {
				t.Errorf("the first readers took %v, want %v", d, patience)
			}
		}
		if d := r.get("later"); d != 0 {
			t.Errorf("with no reply for %v, a reader waited for %v", patience, d)
		}
		if n := r.sent(); n != pipeline {
			t.Errorf("%d claims were sent, want %d", n, pipeline)
		}
		r.conn.Intercept(nil)
		time.Sleep(callTimeout + time.Second) // the lost claim has failed, and its pause is over
		r.get("later")
		r.wantOwned("later")
	})
}

// fillPipeline has readers of as many keys as there are batches of claims under
// way at the most; their names begin with name.
func (r *rig) fillPipeline(name string, read func(key string)) {
	for i := range pipeline {
		go read(fmt.Sprint(name, i))
		synctest.Wait()
	}
}

// A write that waits for a claim of ours that was not sent does not wait for
// those before it in the queue.
func TestWritesDoNotWaitForAQueuedClaim(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if strings.Contains(fmt.Sprint(req), "claims/lost") {
				return nil, memetcd.ErrLost
			}
			return do(ctx)
		})
		r.fillPipeline("lost", func(key string) { r.kv.Get(t.Context(), key) })
		go r.kv.Get(t.Context(), "queued")
		synctest.Wait()
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
		r.fillPipeline("sent", func(key string) { r.kv.Get(t.Context(), key) })
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
		if n := r.sent(); n != pipeline {
			t.Errorf("%d claims were sent, %d of them before", n, pipeline)
		}
	})
}

// Invariant I14: a watch that says nothing while renewals succeed is given up
// with everything owned, and nothing is claimed until another one runs.
func TestI14NothingIsClaimedUnderASilentWatch(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.get("k")
		r.wantOwned("k")
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		r.conn.DelayWatch(time.Hour)
		go r.writeAll(ctx)
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

// writeAll writes to the store every second, so that there is progress to tell.
func (r *rig) writeAll(ctx context.Context) {
	plain := r.srv.NewClient("plain")
	for ctx.Err() == nil {
		_, _ = plain.Put(ctx, "else", "")
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
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

// Claims that are expected to be free are made all together or not at all. If one
// of the keys is somebody else's, the others are claimed none the less.
func TestClaimsOfABatchThatIsNotFree(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		kv2, _ := r.other("kv2", 0)
		defer kv2.Close()
		r.conn.DelayWatch(time.Second) // else we know better
		if _, err := kv2.Get(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		sent := func(keys ...string) int {
			before := r.sent()
			r.readTogether(keys...)
			return r.sent() - before - pipeline
		}
		if n := sent("a", "b", "c"); n != 2 {
			t.Errorf("a batch that was not free took %d requests, want 2", n)
		}
		r.wantOwned("a", "c")
		if n := sent("d", "e"); n != 1 {
			t.Errorf("the batch after it took %d requests, want 1", n)
		}
		r.wantOwned("d", "e")
	})
}

// Invariant I3: claims of which the outcome is unknown are not sent again, be it one
// by one. What came of them is given up.
func TestI3ClaimsOfUnknownOutcomeAreSentOnce(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		sent := 0
		r.interceptBatch("a", "b", "c")(func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			resp, err := do(ctx)
			if names(req, "b") { // a claim: whatever else is sent names no key but its claim
				sent++
				return nil, status.Error(codes.Unknown, "the reply is lost")
			}
			return resp, err
		})
		time.Sleep(time.Second)
		if sent != 1 {
			t.Errorf("they were sent %d times", sent)
		}
		if keys := r.claims(); slices.Contains(keys, "b") {
			t.Errorf("claims that were given up are still there: %q", keys)
		}
	})
}

// What is queued at once goes to all loops.
func TestQueuesFillThePipeline(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.on(memetcd.MethodTxn, func(context.Context, proto.Message, next) (proto.Message, error) { return nil, memetcd.ErrLost })
		defer r.conn.Intercept(nil)
		var ys []yield
		var cls []*claim
		for i := range 2 * maxBatch {
			ys = append(ys, yield{key: fmt.Sprint("y", i), grant: 1})
			cl, _, _ := r.kv.cache.join(fmt.Sprint("c", i), time.Now())
			cls = append(cls, cl)
		}
		for _, put := range []func(){func() { r.kv.session.yield(ys) }, func() { r.kv.session.claims.put(cls...) }} {
			before := r.sent()
			put()
			synctest.Wait()
			if n := r.sent() - before; n != pipeline {
				t.Errorf("%d batches are under way, want %d", n, pipeline)
			}
		}
	})
}

// Invariant I8: a REVOKE overtakes the reply to claims that were made all or none.
// Its key is given back, and the others are owned.
func TestI8RevokeOvertakesClaimsOfAllOrNone(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		writer, _ := r.other("writer", 0)
		defer writer.Close()
		held := make(chan struct{})
		r.interceptBatch("a", "b", "c")(func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			resp, err := do(ctx)
			if names(req, "claims/a") {
				<-held
			}
			return resp, err
		})
		put := make(chan error)
		go func() {
			_, err := writer.Put(t.Context(), "b", "new")
			put <- err
		}()
		synctest.Wait()
		select {
		case err := <-put:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("the writer waits for the reply to claims that is owed to another KV")
		}
		close(held)
		synctest.Wait()
		r.wantOwned("a", "c")
		if r.kv.cache.lookup("b") != nil {
			t.Error("what the writer asked back is owned")
		}
		resp, err := r.kv.Get(t.Context(), "b")
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "new" {
			t.Errorf("read %v, %v", resp, err)
		}
		if got := strings.Join(r.claims(), ""); strings.Contains(got, "b") {
			t.Errorf("claimed are %q", r.claims())
		}
	})
}

// Claims that get no answer are not sent again in another form.
func TestLostBatchIsSentOnce(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		sent := 0
		r.interceptBatch("a", "b")(func(_ context.Context, req proto.Message, _ next) (proto.Message, error) {
			if strings.Contains(fmt.Sprint(req), "request_put") { // else a yield
				sent++
			}
			return nil, memetcd.ErrLost
		})
		time.Sleep(callTimeout)
		synctest.Wait()
		if sent != 1 {
			t.Errorf("sent %d times", sent)
		}
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
// its argument decides on all transactions but those that hold them up.
func (r *rig) interceptBatch(keys ...string) func(func(context.Context, proto.Message, next) (proto.Message, error)) {
	return func(f func(context.Context, proto.Message, next) (proto.Message, error)) {
		held, first := make(chan struct{}), fmt.Sprint("first of ", r.sent(), ", no. ")
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if strings.Contains(fmt.Sprint(req), "claims/"+first) {
				<-held
				return do(ctx)
			}
			return f(ctx, req, do)
		})
		r.fillPipeline(first, func(key string) { r.kv.Get(r.t.Context(), key) })
		for _, k := range keys {
			go r.kv.Get(r.t.Context(), k)
			synctest.Wait()
		}
		close(held)
		synctest.Wait()
	}
}

// ownOnLeases makes a KV with four claims a lease own 4 n keys on n leases; it
// returns the leases.
func (r *rig) ownOnLeases(n int) []*lease {
	r.t.Helper()
	for i := range 4 * n {
		r.get(fmt.Sprint(i))
		synctest.Wait() // a lease is added when there is no more room
		r.get(fmt.Sprint(i))
	}
	for i := range 4 * n {
		r.wantOwned(fmt.Sprint(i))
	}
	r.kv.session.mu.Lock()
	defer r.kv.session.mu.Unlock()
	return slices.Clone(r.kv.session.leases)
}

// Close revokes every lease that it can, whatever becomes of one of them.
func TestCloseGoesOnAfterARefusedRevoke(t *testing.T) {
	onRigOf(t, fourPerLease, func(t *testing.T, r *rig) {
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
	onRigOf(t, fourPerLease, func(t *testing.T, r *rig) {
		r.ownOnLeases(4)
		r.conn.Cut(memetcd.Both)
		begin := time.Now()
		r.kv.Close()
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// Invariant I14: in a store that nobody writes to, etcd does not answer for the
// progress of a watch that was resumed from the next revision. Nothing is given
// back for that.
func TestI14QuietStoreIsNotASilentWatch(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.get("k")
		r.wantOwned("k")
		time.Sleep(10 * time.Second)
		r.conn.Reset() // clientv3 resumes the watch from the next revision
		time.Sleep(2 * rigTTL)
		r.wantOwned("k")
		if n := r.logs.FilterMessageSnippet("silent").Len(); n != 0 {
			t.Errorf("called silent %d times, though nothing has happened that it could have told", n)
		}
	})
}

// The same with nothing owned.
func TestI14QuietStoreIsNoReasonToWarn(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		time.Sleep(10 * time.Second)
		r.conn.Reset()
		time.Sleep(time.Hour)
		if n := r.logs.FilterMessageSnippet("silent").Len(); n != 0 {
			t.Errorf("%d warnings in an hour", n)
		}
	})
}

// The application's watches are not told of progress that only we ask for.
func TestWatchesOfTheApplicationAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, _ := srv.Client("kv")
		kv, err := New(t.Context(), cl, Config{Prefix: "claims/"})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(cl.Ctx()))
		w := cl.Watch(ctx, "app/", clientv3.WithPrefix())
		n := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for resp := range w {
				if len(resp.Events) == 0 && !resp.Canceled {
					n++
				}
			}
		}()
		time.Sleep(time.Minute)
		cancel()
		<-done
		if n > 0 {
			t.Errorf("%d empty responses in a minute; without a leasing KV there are none", n)
		}
	})
}

// A watch of the application's from a revision to come does not keep etcd from
// telling the progress of ours.
func TestWatchesOfTheApplicationDoNotSilenceOurs(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		cl := r.kv.session.watcher
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(r.kv.session.ctx))
		defer cancel()
		cl.Watch(ctx, "app/", clientv3.WithPrefix(), clientv3.WithRev(r.srv.Revision()+1000))
		plain := r.srv.NewClient("plain")
		for i := range 600 { // a store that is written to
			if _, err := plain.Put(t.Context(), "app/x", ""); i == 0 && err != nil {
				t.Fatal(err)
			}
			r.get("k")
			time.Sleep(time.Second)
		}
		if n := r.logs.FilterMessageSnippet("silent").Len(); n != 0 {
			t.Errorf("called silent %d times in ten minutes", n)
		}
	})
}

// A yield whose request is lost does not hold up the others for long.
func TestOneLostYieldHoldsUpNoOther(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.get("a")
		r.get("b")
		r.wantOwned("a", "b")
		lost := false
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if !lost && names(req, "claims/a") {
				lost = true
				return nil, memetcd.ErrLost
			}
			return do(ctx)
		})
		cl2, _ := r.srv.Client("kv2")
		kv2, err := New(t.Context(), cl2, Config{Prefix: "claims/", Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		defer kv2.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		go kv2.Put(ctx, "a", "v")
		synctest.Wait()
		begin := time.Now()
		_, err = kv2.Put(t.Context(), "b", "v")
		if d := time.Since(begin); err != nil || d > 2*time.Second {
			t.Errorf("the writer of another key waited for %v: %v", d, err)
		}
	})
}

// A slow etcd does not get the bound of Close for each of the leases.
func TestCloseWithASlowEtcdIsBounded(t *testing.T) {
	onRigOf(t, fourPerLease, func(t *testing.T, r *rig) {
		r.ownOnLeases(5)
		r.on(memetcd.MethodLeaseRevoke, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			time.Sleep(2 * time.Second)
			return do(ctx)
		})
		begin := time.Now()
		r.kv.Close()
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("it took %v", d)
		}
		time.Sleep(3 * time.Second) // the last revoke arrives
	})
}

// When the context given with WithContext ends, the lease that was handed in is
// no longer kept alive.
func TestHandedInLeaseEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, _ := srv.Client("kv")
		g, err := cl.Grant(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, closeKV, err := NewKV(cl, "claims/", concurrency.WithLease(g.ID), concurrency.WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		defer closeKV()
		time.Sleep(time.Minute)
		cancel()
		time.Sleep(time.Minute)
		left, err := srv.NewClient("look").TimeToLive(t.Context(), g.ID)
		if err != nil || left.TTL > 0 {
			t.Errorf("a minute after its context has ended the lease of 10 s lives on: %v, %v", left, err)
		}
	})
}

// A lease that was handed in and is gone is not asked for again.
func TestLostHandedInLeaseIsNotAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, conn := srv.Client("kv")
		g, err := cl.Grant(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		_, closeKV, err := NewKV(cl, "claims/", concurrency.WithLease(g.ID))
		if err != nil {
			t.Fatal(err)
		}
		defer closeKV()
		if _, err := srv.NewClient("operator").Revoke(t.Context(), g.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // the session has ended
		before := conn.Sent()[memetcd.MethodLeaseKeepAlive]
		time.Sleep(time.Minute)
		if n := conn.Sent()[memetcd.MethodLeaseKeepAlive] - before; n > 0 {
			t.Errorf("%d renewals of a lease that is gone, in a minute", n)
		}
	})
}

// Invariant I2: the deadline of a new lease counts from when it was asked for.
func TestI2GrantCountsFromItsSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, conn := srv.Client("kv")
		conn.Intercept(func(ctx context.Context, call *memetcd.Call, do next) (proto.Message, error) {
			resp, err := do(ctx)
			if call.Method == memetcd.MethodLeaseGrant {
				time.Sleep(3 * time.Second)
			}
			return resp, err
		})
		begin := time.Now()
		kv, err := New(t.Context(), cl, Config{Prefix: "claims/", TTL: rigTTL})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		if got, want := kv.session.leases[0].deadline(), begin.Add(rigTTL-margin(rigTTL)); !got.Equal(want) {
			t.Errorf("the deadline is %v late", got.Sub(want))
		}
	})
}

// New does not wait in silence, and says what it has waited for.
func TestNewTellsWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, conn := srv.Client("kv")
		conn.Cut(memetcd.Both)
		core, logs := observer.New(zapcore.WarnLevel)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := New(ctx, cl, Config{Prefix: "claims/", Logger: zap.New(core)})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `under prefix "claims/"`) {
			t.Errorf("the error is %v", err)
		}
		if n := logs.FilterMessageSnippet("still no session").Len(); n != 1 {
			t.Errorf("logged %d times", n)
		}
	})
}

// If etcd refuses leases, New returns, the log tells why, once, and reads go to
// etcd.
func TestRefusedLeaseIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, _ := srv.Client("kv")
		srv.SetNoSpace(true)
		core, logs := observer.New(zapcore.WarnLevel)
		kv, err := New(t.Context(), cl, Config{Prefix: "claims/", Logger: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		time.Sleep(time.Minute)
		if _, err := kv.Get(t.Context(), "k"); err != nil {
			t.Error(err)
		}
		if n := logs.FilterMessageSnippet("cannot be granted a lease").Len(); n != 1 {
			t.Errorf("logged %d times", n)
		}
	})
}

// slowLease returns from TimeToLive a moment after its context has ended.
type slowLease struct{ clientv3.Lease }

func (l slowLease) TimeToLive(ctx context.Context, id clientv3.LeaseID, opts ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	resp, err := l.Lease.TimeToLive(ctx, id, opts...)
	if err != nil {
		time.Sleep(time.Millisecond)
	}
	return resp, err
}

// Close leaves no stream behind, whatever hangs when it begins: etcd's client
// makes one for a watch that is asked for progress and is not there any more.
func TestCloseLeavesNoWatchStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, conn := srv.Client("kv")
		cl.Lease = slowLease{cl.Lease}
		kv, err := New(t.Context(), cl, Config{Prefix: "claims/", TTL: rigTTL, Logger: zap.NewNop(), perLease: 4})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, srv: srv, conn: conn, kv: kv}
		r.ownOnLeases(9)
		conn.Cut(memetcd.Both)
		time.Sleep(25 * time.Second) // nine renewals hang, more than maxCalls, and a probe waits behind them
		kv.Close()
		conn.Heal()
		wantNoWatchStream(t)
	})
}

// What was under way when Close began is not sent again after Close has ended.
func TestNothingIsSentAfterClose(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.get("k")
		r.wantOwned("k")
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if names(req, "late") {
				time.Sleep(time.Second)
			}
			return do(ctx)
		})
		done := make(chan error)
		go func() { _, err := r.kv.Put(t.Context(), "k", "late"); done <- err }()
		synctest.Wait()
		r.kv.Close()
		before := r.sent()
		err := <-done
		if n := r.sent() - before; n > 0 || !errors.Is(err, ErrClosed) {
			t.Errorf("%d transactions were sent after Close had returned; the put gives %v", n, err)
		}
	})
}

// Invariant I14: etcd's gRPC proxy does not pass requests for progress on ("not supported
// request type by gRPC proxy"). The watch itself works: it delivers REVOKEs.
func TestI14WatchThatDoesNotAnswerForProgress(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.on(memetcd.MethodWatch, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if req.(*etcdserverpb.WatchRequest).GetProgressRequest() != nil {
				return nil, memetcd.ErrLost
			}
			return do(ctx)
		})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go r.writeAll(ctx) // keys outside of the prefix
		r.get("k")
		r.wantOwned("k")
		local, all := 0, 0
		for range 600 {
			time.Sleep(time.Second)
			if r.kv.cache.lookup("k") != nil {
				local++
			}
			all++
			r.get("k")
		}
		n := r.logs.FilterMessageSnippet("silent").Len()
		if local < all*9/10 || n > 0 {
			t.Errorf("%d of %d reads of a key that nobody else wants were served; the watch, which works, was called silent %d times in ten minutes", local, all, n)
		}
	})
}

// Invariant I14: two KVs that both have to give their watches something to tell
// write into one claim. Each hears of it, neither loses anything, and it goes.
func TestI14TwoWatchesAreGivenSomethingToTell(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		other, conn := r.other("other", 0)
		defer other.Close()
		for _, c := range []*memetcd.Conn{r.conn, conn} {
			c.Intercept(func(ctx context.Context, call *memetcd.Call, do next) (proto.Message, error) {
				if q, ok := call.Request.(*etcdserverpb.WatchRequest); ok && q.GetProgressRequest() != nil {
					return nil, memetcd.ErrLost
				}
				return do(ctx)
			})
		}
		r.get("k")
		if _, err := other.Get(t.Context(), "j"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		r.wantOwned("k")
		if other.cache.lookup("j") == nil {
			t.Error(`"j" is not owned`)
		}
		if keys := r.claims(); !slices.Equal(keys, []string{"j", "k"}) {
			t.Errorf("claimed: %q", keys)
		}
	})
}

// Close takes its time between leases, but not more than its bound has room for.
func TestCloseRevokesManyLeases(t *testing.T) {
	onRigOf(t, fourPerLease, func(t *testing.T, r *rig) {
		const leases = 700
		for i := range 4 * leases {
			r.kv.Get(t.Context(), fmt.Sprint("k", i))
			if i%4 == 3 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		if n := len(r.claims()); n < 2*leases {
			t.Fatalf("%d claims", n)
		}
		r.conn.SetLatency(8 * time.Millisecond)
		r.kv.Close()
		if n := len(r.claims()); n > 0 {
			t.Errorf("%d claims are left after Close", n)
		}
	})
}

// Over a distance, leases are revoked side by side: no claim is left, within what Close
// promises.
func TestCloseOverADistance(t *testing.T) {
	onRigOf(t, fourPerLease, func(t *testing.T, r *rig) {
		const leases = 40
		r.ownOnLeases(leases)
		r.conn.SetLatency(500 * time.Millisecond)
		begin := time.Now()
		r.kv.Close()
		if d, bound := time.Since(begin), 3*time.Second+leases*closeLeaseTimeout; d > bound {
			t.Errorf("Close took %v, more than %v", d, bound)
		}
		if left := r.claims(); len(left) > 0 {
			t.Errorf("Close left %d claims", len(left))
		}
	})
}

// Nearby they follow each other, and as much time as they take is left to others.
func TestCloseLeavesTimeToOthers(t *testing.T) {
	onRigOf(t, fourPerLease, func(t *testing.T, r *rig) {
		r.ownOnLeases(10)
		var ends []time.Time
		r.on(memetcd.MethodLeaseRevoke, func(ctx context.Context, _ proto.Message, do next) (proto.Message, error) {
			if n := len(ends); n > 0 && time.Since(ends[n-1]) < 4*time.Millisecond {
				t.Errorf("revoke %d begins %v after the end of the one before, which took 4ms", n, time.Since(ends[n-1]))
			}
			time.Sleep(4 * time.Millisecond)
			resp, err := do(ctx)
			ends = append(ends, time.Now())
			return resp, err
		})
		r.kv.Close()
		if len(ends) < 10 {
			t.Errorf("%d leases were revoked", len(ends))
		}
	})
}

// A logger may look at the KV: nothing is logged under a lock that Stats takes. If that
// were so, this would hang.
func TestLoggersMayUseTheKV(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, conn := srv.Client("kv")
		var looked atomic.Int64
		var made atomic.Pointer[KV]
		core, _ := observer.New(zap.DebugLevel)
		log := zap.New(zapcore.RegisterHooks(core, func(e zapcore.Entry) error {
			if kv := made.Load(); kv != nil {
				kv.Stats()
				looked.Add(1)
			}
			return nil
		}))
		kv, err := New(t.Context(), cl, Config{Prefix: "claims/", TTL: 5 * time.Second, Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		made.Store(kv)
		r := &rig{t: t, srv: srv, conn: conn, kv: kv}
		r.get("k")
		for _, lost := range []memetcd.Direction{memetcd.Replies, memetcd.Both} {
			r.conn.Cut(lost)
			r.conn.Reset()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			kv.Get(ctx, "fresh")
			kv.Put(ctx, "k", "v")
			cancel()
			time.Sleep(20 * time.Second)
			r.conn.Heal()
			time.Sleep(20 * time.Second)
		}
		if n := looked.Load(); n < 10 {
			t.Errorf("only %d messages were logged", n)
		}
	})
}

// wantNoWatchStream fails if etcd's client has a stream of watches after a while.
func wantNoWatchStream(t *testing.T) {
	t.Helper()
	time.Sleep(time.Minute)
	synctest.Wait()
	buf := make([]byte, 1<<22)
	if n := strings.Count(string(buf[:runtime.Stack(buf, true)]), "(*watchGRPCStream).run("); n > 0 {
		t.Errorf("%d watch streams are left", n)
	}
}

// hangingLease tells nothing of leases after a time.
type hangingLease struct {
	clientv3.Lease
	after time.Time
}

func (l hangingLease) TimeToLive(ctx context.Context, id clientv3.LeaseID, opts ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	if time.Now().After(l.after) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return l.Lease.TimeToLive(ctx, id, opts...)
}

// Nor does a probe leave one that has waited behind renewals that hang, while the watch has
// come to its end.
func TestCloseLeavesNoStreamOfALateProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		at := func(d time.Duration) { time.Sleep(d - time.Since(begin)) }
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		root := srv.NewClient("root")
		cl, conn := srv.Client("kv")
		cl.Lease = hangingLease{cl.Lease, begin.Add(19300 * time.Millisecond)}
		kv, err := New(t.Context(), cl, Config{Prefix: "claims/", TTL: rigTTL, Logger: zap.NewNop(), perLease: 4})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, srv: srv, conn: conn, kv: kv}
		at(time.Second)
		r.ownOnLeases(10)
		at(20*time.Second - deafness/3*5) // so that renewals of nine leases and a probe are due together
		kv.session.nudge()
		at(19300 * time.Millisecond)
		r.on(memetcd.MethodRange, func(ctx context.Context, _ proto.Message, _ next) (proto.Message, error) {
			<-ctx.Done() // so that the watch does not begin anew
			return nil, ctx.Err()
		})
		at(20500 * time.Millisecond)
		if err := compactAway(root); err != nil {
			t.Fatal(err)
		}
		conn.Reset() // the watch would go on from what has been compacted
		at(25100 * time.Millisecond)
		kv.Close()
		wantNoWatchStream(t)
	})
}

// When the context is over that bounds the life of a KV, nothing is read from memory, also
// while renewals hang.
func TestContextEndsWhileARenewalHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, _ := srv.Client("kv")
		cl.Lease = hangingLease{cl.Lease, time.Now().Add(15 * time.Second)}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		made, done, err := NewKV(cl, "claims/", concurrency.WithContext(ctx), concurrency.WithTTL(60))
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		kv := made.(*KV)
		if _, err := kv.Get(t.Context(), "k"); err != nil || !kv.Owned("k") {
			t.Fatalf("not owned: %v", err)
		}
		time.Sleep(19500 * time.Millisecond) // the renewal that is due at 19 s hangs
		cancel()
		synctest.Wait()
		if kv.Owned("k") {
			t.Error("a key is owned although the context is over")
		}
	})
}

// slowGrants takes a second to tell of a lease.
type slowGrants struct{ clientv3.Lease }

func (l slowGrants) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	resp, err := l.Lease.Grant(ctx, ttl)
	time.Sleep(time.Second)
	return resp, err
}

// Invariant: I14. A lease that is granted while etcd refuses the watch is not kept, and
// nobody is told that keys can be owned again.
func TestI14GrantWhileTheWatchIsRefused(t *testing.T) {
	cfg := fourPerLease
	var recovered bool
	cfg.OnEvent = func(e Event) { recovered = recovered || e.Kind == SessionRecovered }
	onRigOf(t, cfg, func(t *testing.T, r *rig) {
		r.kv.session.lessor = slowGrants{r.kv.session.lessor}
		for _, k := range []string{"1", "2", "3", "4", "5"} {
			r.get(k) // so that another lease is wanted
		}
		time.Sleep(100 * time.Millisecond)
		r.conn.Deny(func(_, end []byte, _ bool) bool { return len(end) > 0 })
		r.conn.Reset() // the watch begins anew, and is refused
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if k := r.kv.Standing().Kind; recovered || k != SessionJeopardy {
			t.Errorf("recovered: %v; it stands at %v", recovered, k)
		}
	})
}

// Invariant: I14. A lease that is granted while the watch is away, as it has to begin anew, is
// revoked, and another takes its place when the watch is back.
func TestI14GrantWhileTheWatchIsAway(t *testing.T) {
	for _, away := range []time.Duration{500 * time.Millisecond, 2 * time.Second, 4 * time.Second} {
		slowly(t, away, func(t *testing.T, root, cl *clientv3.Client, conn *memetcd.Conn) {
			compacted := make(chan error, 1)
			time.AfterFunc(300*time.Millisecond, func() { // the first lease is being granted
				compacted <- compactAway(root)
				conn.Intercept(func(ctx context.Context, call *memetcd.Call, do next) (proto.Message, error) {
					if call.Method == memetcd.MethodRange {
						time.Sleep(away)
					}
					return do(ctx)
				})
				conn.Reset()
			})
			kv, err := New(t.Context(), cl, Config{Prefix: "claims/", TTL: rigTTL, Logger: zap.NewNop()})
			if err := errors.Join(err, <-compacted); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			if _, err := kv.Get(t.Context(), "k"); err != nil || !kv.Owned("k") {
				t.Errorf("not owned: %v", err)
			}
			wantLeases(t, root, 1)
			kv.Close()
			wantLeases(t, root, 0)
		})
	}
}

// Whenever the context ends that bounds the life of a KV, be it while its lease is being
// granted, or its claim under way, nothing is left of it.
func TestContextEndsAtAnyTime(t *testing.T) {
	for _, at := range []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, 2100 * time.Millisecond} {
		slowly(t, at, func(t *testing.T, root, cl *clientv3.Client, conn *memetcd.Conn) {
			ctx, cancel := context.WithTimeout(t.Context(), at)
			defer cancel()
			kv, done, err := NewKV(cl, "claims/", concurrency.WithContext(ctx), concurrency.WithTTL(60))
			if (err != nil) != (at < time.Second) { // which the first lease takes
				t.Fatalf("NewKV: %v", err)
			}
			if err == nil {
				defer done()
				conn.Intercept(func(ctx context.Context, call *memetcd.Call, do next) (proto.Message, error) {
					if call.Method == memetcd.MethodTxn {
						time.Sleep(time.Second)
					}
					return do(ctx)
				})
				for range 4 {
					if _, err := kv.Get(t.Context(), "k"); err != nil {
						t.Error(err)
					}
				}
			}
			time.Sleep(20 * time.Second)
			wantLeases(t, root, 0)
			if resp, err := root.Get(t.Context(), "claims/", clientv3.WithPrefix()); err != nil || resp.Count > 0 {
				t.Errorf("claims are left: %v, %v", resp, err)
			}
		})
	}
}

// slowly runs a test for a case that is a time, with a client whose leases take a second to
// be granted.
func slowly(t *testing.T, at time.Duration, test func(t *testing.T, root, cl *clientv3.Client, conn *memetcd.Conn)) {
	t.Run(fmt.Sprint(at), func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := memetcd.New(memetcd.Options{})
			defer srv.Close()
			cl, conn := srv.Client("kv")
			cl.Lease = slowGrants{cl.Lease}
			test(t, srv.NewClient("root"), cl, conn)
		})
	})
}

// compactAway writes a little, and compacts the history of it.
func compactAway(root *clientv3.Client) (err error) {
	var resp *clientv3.PutResponse
	for range 10 {
		if resp, err = root.Put(context.Background(), "x", ""); err != nil {
			return err
		}
	}
	_, err = root.Compact(context.Background(), resp.Header.Revision)
	return err
}

// wantLeases fails if there are not so many leases.
func wantLeases(t *testing.T, root *clientv3.Client, n int) {
	t.Helper()
	if resp, err := root.Leases(t.Context()); err != nil || len(resp.Leases) != n {
		t.Errorf("%v leases, %v, want %d", resp, err, n)
	}
}
