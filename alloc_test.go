package leasing_test

import (
	"context"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A budget for reads from memory: they allocate the reply that the caller may
// change (I12), and nothing else that can be helped. The race detector does
// not change these counts.
func TestHitAllocations(t *testing.T) {
	kv, keys := owned(t, 2, 16)
	ctx := context.Background()
	get := func() error {
		_, err := kv.Get(ctx, keys[0])
		return err
	}
	txn := func() error {
		_, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.Version(keys[0]), ">", 0)).
			Then(clientv3.OpGet(keys[0]), clientv3.OpGet(keys[1])).Commit()
		return err
	}
	for _, tt := range []struct {
		what   string
		op     func() error
		budget float64
	}{
		{"read", get, 1},
		{"transaction, with its arguments", txn, 17},
	} {
		n := testing.AllocsPerRun(1000, func() {
			if err := tt.op(); err != nil {
				t.Error(err)
			}
		})
		if n > tt.budget {
			t.Errorf("%s: %v allocations; at most %v", tt.what, n, tt.budget)
		}
	}
}
