package leasing

import (
	"errors"
	"testing"
	"testing/synctest"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// Each way to read an owned key through Uncached costs a request, and claims nothing.
func TestUncachedReadsGoToEtcd(t *testing.T) {
	get := clientv3.OpGet("k")
	there := clientv3.Compare(clientv3.CreateRevision("k"), ">", 0)
	reads := map[string]func(t *testing.T, kv clientv3.KV) error{
		"Get": func(t *testing.T, kv clientv3.KV) error {
			_, err := kv.Get(t.Context(), "k")
			return err
		},
		"Do with a get": func(t *testing.T, kv clientv3.KV) error {
			_, err := kv.Do(t.Context(), get)
			return err
		},
		"Do with a transaction": func(t *testing.T, kv clientv3.KV) error {
			_, err := kv.Do(t.Context(), clientv3.OpTxn([]clientv3.Cmp{there}, []clientv3.Op{get}, nil))
			return err
		},
		"Txn": func(t *testing.T, kv clientv3.KV) error {
			_, err := kv.Txn(t.Context()).Then(get).Commit()
			return err
		},
		"Txn that would write in the branch not taken": func(t *testing.T, kv clientv3.KV) error {
			_, err := kv.Txn(t.Context()).If(there).Then(get).Else(clientv3.OpPut("k", "w")).Commit()
			return err
		},
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			onRig(t, func(t *testing.T, r *rig) {
				count := func(kv clientv3.KV) int {
					t.Helper()
					before := r.conn.Sent()
					if err := read(t, kv); err != nil {
						t.Fatal(err)
					}
					after := r.conn.Sent()
					return after[memetcd.MethodRange] - before[memetcd.MethodRange] + after[memetcd.MethodTxn] - before[memetcd.MethodTxn]
				}
				if n := count(r.kv.Uncached()); n != 1 {
					t.Errorf("a read of a key that nobody owns took %d requests", n)
				}
				if r.kv.Owned("k") {
					t.Error("the key was claimed")
				}
				if _, err := r.kv.Put(t.Context(), "k", "v"); err != nil {
					t.Fatal(err)
				}
				r.get("k")
				r.wantOwned("k")
				if n := count(r.kv); n != 0 {
					t.Errorf("a read of an owned key took %d requests", n)
				}
				if n := count(r.kv.Uncached()); n != 1 {
					t.Errorf("an uncached read of an owned key took %d requests", n)
				}
			})
		})
	}
}

// Writes through Uncached follow the protocol: readers of this KV see them at once, and
// other owners are asked.
func TestUncachedWritesAreGuarded(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		other, err := New(t.Context(), r.srv.NewClient("other"), Config{Prefix: "claims/"})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		r.get("mine")
		r.get("both")
		if _, err := other.Get(t.Context(), "theirs"); err != nil {
			t.Fatal(err)
		}
		u := r.kv.Uncached()
		if _, err := u.Put(t.Context(), "mine", "1"); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Txn(t.Context()).Then(clientv3.OpPut("theirs", "2"), clientv3.OpPut("both", "2")).Commit(); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Do(t.Context(), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("done", "3")}, nil)); err != nil {
			t.Fatal(err)
		}
		for kv, want := range map[*KV]map[string]string{
			r.kv:  {"mine": "1", "both": "2", "done": "3"},
			other: {"theirs": "2"},
		} {
			for k, v := range want {
				resp, err := kv.Get(t.Context(), k)
				if err != nil {
					t.Fatal(err)
				}
				if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != v {
					t.Errorf("%s is %v, want %s", k, resp.Kvs, v)
				}
			}
		}
		r.wantOwned("mine", "both")
	})
}

// Who may not write a key does not take it from its owner.
func TestUncachedAsksNobodyBeforeEtcdHasJudged(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		owner, conn := r.other("owner", 0)
		defer owner.Close()
		if _, err := owner.Get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until the watch has told of the claim
		r.conn.Deny(func(key, _ []byte, write bool) bool { return write && string(key) == "k" })
		u, before := r.kv.Uncached(), r.kv.Stats().RevokesSent
		_, put := u.Put(t.Context(), "k", "v")
		_, del := u.Delete(t.Context(), "k")
		_, do := u.Do(t.Context(), clientv3.OpPut("k", "v"))
		_, txn := u.Txn(t.Context()).Then(clientv3.OpPut("k", "v")).Commit()
		for call, err := range map[string]error{"Put": put, "Delete": del, "Do": do, "Txn": txn} {
			if !errors.Is(err, rpctypes.ErrPermissionDenied) {
				t.Errorf("%s: %v", call, err)
			}
		}
		synctest.Wait()
		if n := r.kv.Stats().RevokesSent - before; n != 0 {
			t.Errorf("the owner was asked %d times", n)
		}
		sent := conn.Sent()
		if _, err := owner.Get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if after := conn.Sent(); after[memetcd.MethodTxn] != sent[memetcd.MethodTxn] || after[memetcd.MethodRange] != sent[memetcd.MethodRange] {
			t.Error("the owner does not own the key any more")
		}
	})
}

func TestUncachedEndsWithTheKV(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		u := r.kv.Uncached()
		r.kv.Close()
		_, get := u.Get(t.Context(), "k")
		_, do := u.Do(t.Context(), clientv3.OpGet("k"))
		_, doTxn := u.Do(t.Context(), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("k")}, nil))
		_, put := u.Put(t.Context(), "k", "v")
		_, txn := u.Txn(t.Context()).Then(clientv3.OpGet("k")).Commit()
		for call, err := range map[string]error{"Get": get, "Do": do, "Do with a transaction": doTxn, "Put": put, "Txn": txn} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("%s after Close: %v", call, err)
			}
		}
	})
}
