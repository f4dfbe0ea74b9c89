package leasing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// Invariant I3: gRPC says that a message is too large to send on both sides. On
// the client's nothing has been sent; on the server's the work is done.
func TestI3ReplyTooLargeToSendIsNoRefusal(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		if _, err := r.kv.Put(ctx, "k", "old"); err != nil {
			t.Fatal(err)
		}
		r.get("k")
		r.wantOwned("k")
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if _, err := do(ctx); err != nil {
				return nil, err
			}
			return nil, status.Errorf(codes.ResourceExhausted, "grpc: trying to send message larger than max (%d vs. %d)", 2, 1)
		})
		if _, err := r.kv.Put(ctx, "k", "new"); err == nil {
			t.Fatal("no error")
		}
		r.conn.Intercept(nil)
		resp, err := r.kv.Get(ctx, "k")
		if err != nil || string(resp.Kvs[0].Value) != "new" {
			t.Errorf("stale read: %v, %v; etcd holds %q", resp, err, "new")
		}
	})
}

// Invariant I11: a put that etcd refuses whichever branch is taken.
func TestI11MalformedPutInTheOtherBranch(t *testing.T) {
	for _, c := range []struct {
		name string
		op   clientv3.Op
		want error
	}{
		{"value beside ignore_value", clientv3.OpPut("x", "v", clientv3.WithIgnoreValue()), rpctypes.ErrValueProvided},
		{"lease beside ignore_lease", clientv3.OpPut("x", "v", clientv3.WithLease(7), clientv3.WithIgnoreLease()), rpctypes.ErrLeaseProvided},
	} {
		t.Run(c.name, func(t *testing.T) {
			onRig(t, func(t *testing.T, r *rig) {
				r.get("k")
				for _, kv := range []clientv3.KV{r.srv.NewClient("plain").KV, r.kv} {
					resp, err := kv.Txn(t.Context()).If(clientv3.Compare(clientv3.Version("k"), "=", 0)).
						Then(clientv3.OpGet("k")).Else(c.op).Commit()
					if !errors.Is(err, c.want) {
						t.Errorf("%T: %v, %v; want %v", kv, resp, err, c.want)
					}
				}
			})
		})
	}
}

// Invariant I10: etcd answers a transaction without operations on whichever
// member gets it, without asking the leader. The test plays a member that lags.
func TestI10TransactionWithoutOperations(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			resp, err := do(ctx)
			if q := req.(*etcdserverpb.TxnRequest); err == nil && len(q.Success)+len(q.Failure) == 0 {
				resp.(*etcdserverpb.TxnResponse).Header.Revision -= 3
			}
			return resp, err
		})
		for i := range 5 {
			if _, err := r.kv.Put(ctx, "k", fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		first, err := r.kv.Get(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		resp, err := r.kv.Txn(ctx).If(clientv3.Compare(clientv3.Version("other"), "=", 0)).Commit()
		if err != nil {
			t.Fatal(err)
		}
		if resp.Header.Revision < first.Header.Revision {
			t.Errorf("revision %d after %d", resp.Header.Revision, first.Header.Revision)
		}
	})
}

// Invariant I13: a transaction that may write a claim is refused, also if it
// could be answered from memory.
func TestI13RefusedWhateverIsOwned(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		commit := func() error {
			_, err := r.kv.Txn(t.Context()).If(clientv3.Compare(clientv3.Version("k"), "=", 0)).
				Then(clientv3.OpGet("k")).Else(clientv3.OpPut("claims/x", "v")).Commit()
			return err
		}
		before := commit()
		r.get("k")
		if after := commit(); !errors.Is(before, ErrClaimPrefix) || !errors.Is(after, ErrClaimPrefix) {
			t.Errorf("unowned: %v; owned: %v", before, after)
		}
	})
}

// A claim that etcd has dropped does not hold up a write of its key for long.
func TestLostClaimDoesNotHoldUpAWrite(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			return nil, memetcd.ErrLost
		})
		go r.kv.Get(t.Context(), "k")
		synctest.Wait()
		r.conn.Intercept(nil)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := r.kv.Put(ctx, "k", "v"); err != nil {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
	})
}

// What a transaction compares with is what the caller's buffer held then, as with
// the plain client.
func TestCompareAndSwapWithAReusedBuffer(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		for name, kv := range map[string]clientv3.KV{"plain": r.srv.NewClient("plain").KV, "leasing": r.kv} {
			if _, err := kv.Put(t.Context(), name, "bbb"); err != nil {
				t.Fatal(err)
			}
			buf := []byte("aaa")
			c := clientv3.Compare(clientv3.Value(name), "=", "")
			c.WithValueBytes(buf)
			swap := kv.Txn(t.Context()).If(c).Then(clientv3.OpPut(name, "swapped"))
			copy(buf, "bbb") // for the next one
			if resp, err := swap.Commit(); err != nil || resp.Succeeded {
				t.Errorf("%s: it expected aaa, found bbb, and has swapped: %v", name, err)
			}
		}
	})
}

// Invariant I1: a local transaction shows its keys as they were at one instant.
// Here one of them is written between the looks at them.
func TestI1LocalTransactionIsOfOneInstant(t *testing.T) {
	s := run(t, owning("a", 5)+owning("b", 6))
	v := &localView{cache: s.c}
	if v.load([]byte("a")) == nil {
		t.Fatal("a is not owned")
	}
	s.play(`
		begin W a b => a@5 b@6
		applied W @7 a=w@7 b=w@7`)
	if v.load([]byte("b")) == nil {
		t.Fatal("b is not owned")
	}
	if v.unchanged() {
		t.Error("half of a transaction is shown")
	}
	again := &localView{cache: s.c}
	again.load([]byte("a"))
	again.load([]byte("b"))
	if !again.unchanged() {
		t.Error("keys that nobody writes are called changed")
	}
}

// Invariant I14: a writer waits for the claim before it asks for it, so that no
// news of its end is missed. Here the end overtakes the reply.
func TestI14EndOfTheClaimOvertakesTheReply(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		owner, _ := r.other("owner", 0)
		defer owner.Close()
		const late = 50 * time.Millisecond
		first := true
		r.on(memetcd.MethodTxn, func(ctx context.Context, _ proto.Message, do next) (proto.Message, error) {
			if !first {
				return do(ctx)
			}
			first = false
			// Too late for the writer to know of it.
			if _, err := owner.Get(ctx, "k"); err != nil {
				t.Error(err)
			}
			resp, err := do(ctx)
			time.Sleep(late)
			return resp, err
		})
		begin := time.Now()
		if _, err := r.kv.Put(t.Context(), "k", "v"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d != late {
			t.Errorf("it took %v, the late reply %v of that", d, late)
		}
	})
}

// Data under the claim prefix holds up the writes of a key, as it looks like
// somebody's claim. It is not written over, and the error says what is wrong.
func TestDataUnderThePrefixIsLeftAlone(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		plain := r.srv.NewClient("plain")
		if _, err := plain.Put(t.Context(), "claims/k", "data"); err != nil {
			t.Fatal(err)
		}
		for name, write := range map[string]func(context.Context) error{
			"put":   func(ctx context.Context) error { _, err := r.kv.Put(ctx, "k", "v"); return err },
			"range": func(ctx context.Context) error { _, err := r.kv.Delete(ctx, "k", clientv3.WithPrefix()); return err },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			err := write(ctx)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"claims/k" is in the way of "k"`) {
				t.Errorf("%s: %v", name, err)
			}
		}
		resp, err := plain.Get(t.Context(), "claims/k")
		if err != nil || string(resp.Kvs[0].Value) != "data" {
			t.Errorf("the data is %v, %v", resp, err)
		}
	})
}

// A writer who has waited in vain is told for whom.
func TestErrorOfAWriterNamesTheOwner(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		owner, conn := r.other("owner", 0)
		defer owner.Close()
		if _, err := owner.Get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		lease := owner.session.leases[0].id
		conn.Cut(memetcd.Both)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := r.kv.Txn(ctx).Then(clientv3.OpPut("j", "v"), clientv3.OpPut("k", "v")).Commit()
		if want := fmt.Sprintf(`"k" is owned by another client, which has not given it back yet (claim "claims/k" on lease %x)`, lease); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

// A key that is written singly and in a range is waited for once.
func TestKeyOfAPointAndARange(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		owner, _ := r.other("owner", time.Millisecond)
		defer owner.Close()
		once := true
		r.on(memetcd.MethodTxn, func(ctx context.Context, _ proto.Message, do next) (proto.Message, error) {
			if once { // it is claimed after the listing
				once = false
				if _, err := owner.Get(t.Context(), "k"); err != nil {
					t.Error(err)
				}
			}
			return do(ctx)
		})
		_, err := r.kv.Txn(t.Context()).If(clientv3.Compare(clientv3.Version("k"), "=", 0)).
			Then(clientv3.OpPut("k", "v")).Else(clientv3.OpDelete("k", clientv3.WithPrefix())).Commit()
		if err != nil {
			t.Error(err)
		}
	})
}

// Invariant I11: a transaction that etcd takes for too large.
func TestI11LargeComparison(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.get("k")
		r.wantOwned("k")
		var got [2]error
		for i, kv := range []clientv3.KV{r.srv.NewClient("plain").KV, r.kv} {
			_, got[i] = kv.Txn(t.Context()).If(clientv3.Compare(clientv3.Value("k"), "=", strings.Repeat("x", 1700<<10))).
				Then(clientv3.OpPut("x", "v")).Else(clientv3.OpGet("k")).Commit()
		}
		if (got[0] == nil) != (got[1] == nil) {
			t.Errorf("plain client: %v; KV: %v", got[0], got[1])
		}
	})
}

// A transaction that turns out to do nothing is answered from memory, also with
// etcd away, and its header is complete and not behind.
func TestI10TransactionThatDoesNothing(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		put, err := r.kv.Put(t.Context(), "k", "v")
		if err != nil {
			t.Fatal(err)
		}
		r.conn.Cut(memetcd.Both)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for name, txn := range map[string]clientv3.Txn{
			"empty":                       r.kv.Txn(ctx),
			"but in the branch not taken": r.kv.Txn(ctx).Then().Else(clientv3.OpPut("k", "w")),
		} {
			resp, err := txn.Commit()
			if err != nil || !resp.Succeeded || len(resp.Responses) > 0 {
				t.Fatalf("%s: %v, %v", name, resp, err)
			}
			h := resp.Header
			if h.Revision != put.Header.Revision || h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0 {
				t.Errorf("%s: its header is %v", name, h)
			}
		}
	})
}

// The claim prefix "\x00" is as good as any, but as the end of a range it means
// that there is none: a deletion of nothing but claims must not become one of
// everything.
//
// Invariant: I13.
func TestI13DeletionOfClaimsUnderNulPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		plain := srv.NewClient("plain")
		if _, err := plain.Put(t.Context(), "data", "v"); err != nil {
			t.Fatal(err)
		}
		kv, err := New(t.Context(), srv.NewClient("kv"), Config{Prefix: "\x00", TTL: rigTTL})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		if _, err := kv.Get(t.Context(), "data"); err != nil {
			t.Fatal(err)
		}
		resp, err := kv.Delete(t.Context(), "\x00", clientv3.WithPrefix()) // ["\x00", "\x01")
		if err != nil {
			t.Fatal(err)
		}
		if resp.Deleted != 0 {
			t.Errorf("a deletion of claims alone deleted %d keys", resp.Deleted)
		}
		if left, err := plain.Get(t.Context(), "data"); err != nil || len(left.Kvs) != 1 {
			t.Errorf("the data is gone: %v, %v", left, err)
		}
		if left, err := plain.Get(t.Context(), "\x00data"); err != nil || len(left.Kvs) != 1 {
			t.Errorf("the claim is gone: %v, %v", left, err)
		}
	})
}

// Invariant: I12. What was read back for the cache is out of the caller's reach, also of one
// who looks behind the end of the replies.
func TestI12RepliesEndWhereTheyEnd(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.get("k")
		r.wantOwned("k")
		long := strings.Repeat("v", 100)
		resp, err := r.kv.Txn(t.Context()).Then(clientv3.OpPut("k", long)).Commit()
		if err != nil || len(resp.Responses) != 1 || cap(resp.Responses) != 1 {
			t.Fatalf("%d replies of %d: %v", len(resp.Responses), cap(resp.Responses), err)
		}
		if got, err := r.kv.Get(t.Context(), "k"); err != nil || string(got.Kvs[0].Value) != long {
			t.Errorf("read %v, %v", got, err)
		}
	})
}
