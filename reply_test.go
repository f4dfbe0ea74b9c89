package leasing_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// Invariant: I12. Whatever a caller does to a reply, the next is right.
func TestI12RepliesMayBeScribbledOver(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.put("k", "value")
		scribble := func(kvs ...*mvccpb.KeyValue) {
			for _, kv := range kvs {
				for i := range kv.Key {
					kv.Key[i] = 'X'
				}
				for i := range kv.Value {
					kv.Value[i] = 'X'
				}
				kv.Value = append(kv.Value[:0], "scribbled"...)
				kv.ModRevision, kv.CreateRevision, kv.Version = -1, -1, -1
			}
		}
		first, err := c.root.Get(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		// Two who share the reply to one claim.
		together(2, func(int) {
			if resp, err := a.Get(t.Context(), "k"); err == nil && valueOf(resp) == "value" {
				scribble(resp.Kvs...)
				resp.Header.Reset()
			} else {
				t.Errorf("read %v, %v", resp, err)
			}
		})
		for _, read := range []func(){
			func() {
				resp, _ := a.Get(t.Context(), "k")
				scribble(resp.Kvs...)
				resp.Header.Reset()
			},
			func() {
				resp, _ := a.Txn(t.Context()).Then(clientv3.OpGet("k"), clientv3.OpGet("k")).Commit()
				for _, r := range resp.Responses {
					scribble(r.GetResponseRange().Kvs...)
				}
			},
			func() { // what was written is read back in the same reply
				resp, _ := a.Txn(t.Context()).Then(clientv3.OpPut("k", "value", clientv3.WithPrevKV()), clientv3.OpGet("k")).Commit()
				scribble(resp.Responses[0].GetResponsePut().PrevKv)
				scribble(resp.Responses[1].GetResponseRange().Kvs...)
				first, _ = c.root.Get(t.Context(), "k")
			},
		} {
			read()
			var resp *clientv3.GetResponse
			if n := a.cost(func() { resp, _ = a.Get(t.Context(), "k") }); n != "" {
				t.Fatalf("not read from memory: %s", n)
			}
			if !proto.Equal(resp.Kvs[0], first.Kvs[0]) {
				t.Errorf("read %v, want %v", resp.Kvs[0], first.Kvs[0])
			}
			if resp.Header.ClusterId != memetcd.ClusterID || resp.Header.MemberId != memetcd.MemberID || resp.Header.RaftTerm == 0 {
				t.Errorf("header %v", resp.Header)
			}
		}
	})
}

// Invariant: I12. Neither do the buffers that a caller handed in matter later.
func TestI12RequestsMayBeScribbledOver(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k")
		cmps := []clientv3.Cmp{clientv3.Compare(clientv3.Version("k"), "=", 0)}
		then := []clientv3.Op{clientv3.OpPut("k", "right")}
		txn := a.Txn(t.Context()).If(cmps...).Then(then...)
		cmps[0] = clientv3.Compare(clientv3.Version("k"), "=", 99)
		then[0] = clientv3.OpPut("k", "wrong")
		if resp, err := txn.Commit(); err != nil || !resp.Succeeded {
			t.Errorf("%v, %v", resp, err)
		}
		want(t, "read", a.get("k"), "right")
	})
}

// Invariant: I10. The revision in the headers never runs backwards, for all
// callers of one KV together, and is never below the key's own.
func TestI10HeadersOfOneKVAreMonotone(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		keys := []string{"k1", "k2", "k3"}
		var highest atomic.Int64
		raise := func(rev int64) {
			for old := highest.Load(); rev > old && !highest.CompareAndSwap(old, rev); old = highest.Load() {
			}
		}
		var hits atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			wg.Go(func() {
				for range 1000 {
					least, start := highest.Load(), time.Now()
					key := keys[rng.IntN(len(keys))]
					var h *pb.ResponseHeader
					var mod int64
					switch k := rng.IntN(100); {
					case k < 4:
						resp, err := a.Put(t.Context(), key, "v")
						if err != nil {
							t.Error(err)
							return
						}
						h, mod = resp.Header, resp.Header.Revision
					case k < 20:
						resp, err := a.Txn(t.Context()).Then(clientv3.OpGet("k1"), clientv3.OpGet("k2")).Commit()
						if err != nil {
							t.Error(err)
							return
						}
						h = resp.Header
						for _, r := range resp.Responses {
							for _, kv := range r.GetResponseRange().Kvs {
								mod = max(mod, kv.ModRevision)
							}
						}
					default:
						resp, err := a.Get(t.Context(), key)
						if err != nil {
							t.Error(err)
							return
						}
						h = resp.Header
						for _, kv := range resp.Kvs {
							mod = kv.ModRevision
						}
					}
					if time.Since(start) == 0 {
						hits.Add(1)
						time.Sleep(time.Duration(rng.IntN(int(trip))))
					}
					if h.Revision < least || h.Revision < mod {
						t.Errorf("header revision %d, seen %d, the key's %d", h.Revision, least, mod)
						return
					}
					raise(h.Revision)
				}
			})
		}
		wg.Go(func() { // somebody else writes now and then
			for i := range 20 {
				time.Sleep(20 * time.Millisecond)
				b.put(keys[i%len(keys)], "w")
			}
		})
		wg.Wait()
		if hits.Load() < 1000 {
			t.Errorf("%d answers from memory", hits.Load())
		}
	})
}

// Invariant: I13. Claims are no data: what is under their prefix is read and
// compared in etcd, not written, and left alone by deletions.
func TestI13TheClaimPrefixIsNotData(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		a.put("k", "v")
		a.own("k")
		before := c.claim("k")
		n := b.cost(func() {
			for what, err := range map[string]error{
				"put":    second(b.Put(t.Context(), "claims/k", "x")),
				"delete": second(b.Delete(t.Context(), "claims/k")),
				"txn":    second(b.Txn(t.Context()).Then(clientv3.OpPut("j", "x"), clientv3.OpDelete("claims/j")).Commit()),
				"nested": second(b.Txn(t.Context()).If(clientv3.Compare(clientv3.Version("j"), "=", 1)).Else(clientv3.OpTxn(nil, nil, []clientv3.Op{clientv3.OpPut("claims/", "x")})).Commit()),
			} {
				if !errors.Is(err, leasing.ErrClaimPrefix) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
		want(t, "cost of refused writes", n, "")
		for range 2 {
			want(t, "cost of reading a claim", a.cost(func() { want(t, "claim", a.get("claims/k"), "") }), "Range=1")
		}
		resp, err := a.Txn(t.Context()).If(clientv3.Compare(clientv3.CreateRevision("claims/k"), "=", before.CreateRevision)).Commit()
		if err != nil || !resp.Succeeded {
			t.Errorf("compared a claim: %v, %v", resp, err)
		}
		for _, del := range []func() (*clientv3.DeleteResponse, error){
			func() (*clientv3.DeleteResponse, error) {
				return a.Delete(t.Context(), "claims/", clientv3.WithPrefix())
			},
			func() (*clientv3.DeleteResponse, error) {
				return a.Delete(t.Context(), "claims/a", clientv3.WithRange("claims/z"))
			},
		} {
			if resp, err := del(); err != nil || resp.Deleted != 0 {
				t.Errorf("deleted %v, %v", resp, err)
			}
		}
		if now := c.claim("k"); !proto.Equal(now, before) {
			t.Errorf("the claim was %v and is %v", before, now)
		}
		if resp, err := b.Delete(t.Context(), "", clientv3.WithPrefix()); err != nil || resp.Deleted != 1 {
			t.Errorf("deleted everything: %v, %v", resp, err)
		}
		want(t, "read", a.get("k"), "-")
		for _, kv := range c.claims() {
			if strings.HasPrefix(string(kv.Key), "claims/claims/") {
				t.Errorf("a claim has been claimed: %s", kv.Key)
			}
		}
	})
}
