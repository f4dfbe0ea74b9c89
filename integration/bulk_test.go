package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// Keys are owned before they are read, with full batches of claims, and given back
// before anybody asks, in batches as well.
func TestPrefetchAndRelease(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	var sent, others etcdtest.Counter
	a := open(t, etcd.Client(0, sent.Option()), longTTL)
	b := open(t, etcd.Client(0, others.Option()), longTTL)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	const n = 1500 // for more than one lease
	keys := make([]string, n)
	for i := 0; i < n; i += 100 {
		var ops []clientv3.Op
		for j := range 100 {
			keys[i+j] = fmt.Sprintf("k%05d", i+j)
			ops = append(ops, clientv3.OpPut(keys[i+j], keys[i+j]))
		}
		if _, err := plain.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	lease, err := plain.Grant(ctx, 300)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Put(ctx, keys[1], "leased", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(ctx, keys[2]); err != nil || !b.Owned(keys[2]) {
		t.Fatalf("b does not own a key: %v", err)
	}

	sent.Reset()
	owned, err := a.Prefetch(ctx, "k", clientv3.WithPrefix())
	if err != nil || owned != n-2 {
		t.Fatalf("%d keys are owned: %v", owned, err)
	}
	if got := sent.Of("Range", "Txn"); got > 30 {
		t.Errorf("Prefetch sent %v", &sent)
	}
	sent.Reset()
	for i, k := range keys {
		resp, err := a.Get(ctx, k)
		if err != nil || len(resp.Kvs) != 1 || i != 1 && string(resp.Kvs[0].Value) != k {
			t.Fatalf("%q: %v, %v", k, resp, err)
		}
	}
	if got := sent.KV(); got > 3 {
		t.Errorf("reading them sent %v", &sent)
	}

	sent.Reset()
	if err := a.Release(ctx, keys...); err != nil {
		t.Fatal(err)
	}
	if got := sent.KV(); got > 20 {
		t.Errorf("Release sent %v", &sent)
	}
	left, err := plain.Get(ctx, "leasing/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || left.Count != 1 {
		t.Errorf("claims are left: %v, %v", left, err)
	}
	others.Reset()
	if _, err := b.Put(ctx, keys[7], "v"); err != nil || others.KV() != 1 {
		t.Errorf("the next writer sent %v: %v", &others, err)
	}
	if resp, err := a.Get(ctx, keys[7]); err != nil || string(resp.Kvs[0].Value) != "v" || !a.Owned(keys[7]) {
		t.Errorf("the next read: %v, %v", resp, err)
	}
}
