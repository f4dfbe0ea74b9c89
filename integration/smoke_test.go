package integration_test

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// Whatever is written through one of two KVs, both of them and a plain client
// read the same.
func TestSmoke(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	var sent etcdtest.Counter
	a := open(t, etcd.Client(0, sent.Option()))
	b := open(t, etcd.Client(0))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	// agree fails unless all see the value of k, or its absence if it is "".
	agree := func(when, want string) {
		t.Helper()
		var first *clientv3.GetResponse
		for i, kv := range []clientv3.KV{plain, a, a, b, a, b} {
			resp, err := kv.Get(ctx, "k")
			if err != nil {
				t.Fatalf("%s: reader %d: %v", when, i, err)
			}
			if len(resp.Kvs) == 0 && want == "" && resp.Count == 0 {
				continue
			}
			if len(resp.Kvs) != 1 || resp.Count != 1 || string(resp.Kvs[0].Value) != want {
				t.Fatalf("%s: reader %d sees %v, not %q", when, i, resp.Kvs, want)
			}
			if first == nil {
				first = resp
			}
			if got, want := resp.Kvs[0].String(), first.Kvs[0].String(); got != want {
				t.Errorf("%s: reader %d sees %s, a plain client %s", when, i, got, want)
			}
		}
	}
	for name, kv := range map[string]clientv3.KV{"owner": a, "other": b} {
		agree("at first", "")
		if _, err := kv.Put(ctx, "k", "1"); err != nil {
			t.Fatal(err)
		}
		agree(name+" has put", "1")
		resp, err := kv.Txn(ctx).
			If(clientv3.Compare(clientv3.Value("k"), "=", "1")).
			Then(clientv3.OpPut("k", "2", clientv3.WithPrevKV()), clientv3.OpPut("other", "x")).
			Else(clientv3.OpDelete("k")).
			Commit()
		if err != nil || !resp.Succeeded {
			t.Fatalf("transaction of the %s: %v, %v", name, resp, err)
		}
		if prev := resp.Responses[0].GetResponsePut().GetPrevKv(); string(prev.GetValue()) != "1" {
			t.Errorf("the transaction of the %s replaced %v", name, prev)
		}
		agree(name+" has committed", "2")
		deleted, err := kv.Delete(ctx, "", clientv3.WithFromKey())
		if err != nil {
			t.Fatal(err)
		}
		if deleted.Deleted != 2 {
			t.Errorf("the %s deleted %d keys, not 2", name, deleted.Deleted)
		}
		agree(name+" has deleted", "")
	}

	// Once a has asked for the key, and the rest is over, its reads send nothing.
	if _, err := a.Put(ctx, "k", "3"); err != nil {
		t.Fatal(err)
	}
	quiet := func() bool {
		before := sent.KV()
		if _, err := a.Get(ctx, "k"); err != nil {
			t.Fatal(err)
		}
		return sent.KV() == before
	}
	for end := time.Now().Add(10 * time.Second); !quiet(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("a never owns the key; it has sent %v", &sent)
		}
	}
}

// The drop-in takes what the original takes, and its closer can be called twice.
func TestSmokeNewKV(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks(), etcdtest.TLS(), etcdtest.Auth())
	kv, closeKV, err := leasing.NewKV(etcd.Client(0), "claims/", concurrency.WithTTL(5))
	if err != nil {
		t.Fatal(err)
	}
	defer closeKV()
	if _, err := kv.Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		resp, err := kv.Get(t.Context(), "k")
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "v" {
			t.Fatalf("got %v, %v", resp, err)
		}
	}
	plain := etcd.Client(0)
	claims := func() int64 {
		resp, err := plain.Get(t.Context(), "claims/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		return resp.Count
	}
	if n := claims(); n != 1 {
		t.Errorf("%d claims", n)
	}
	closeKV()
	if n := claims(); n != 0 {
		t.Errorf("%d claims after the end", n)
	}
	if _, err := kv.Get(t.Context(), "k"); !errors.Is(err, leasing.ErrClosed) {
		t.Errorf("a read after the end: %v", err)
	}
}
