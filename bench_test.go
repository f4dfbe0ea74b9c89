package leasing_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
)

// owned returns a KV that owns n keys with values of the given size.
func owned(b *testing.B, n, size int) (*leasing.KV, []string) {
	b.Helper()
	cl, stop := connect()
	b.Cleanup(stop)
	kv, err := leasing.New(context.Background(), cl, leasing.Config{Prefix: "leasing/"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { kv.Close() })
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%012d", i)
		if _, err := kv.Put(context.Background(), keys[i], strings.Repeat("v", size)); err != nil {
			b.Fatal(err)
		}
		if _, err := kv.Get(context.Background(), keys[i]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	return kv, keys
}

func BenchmarkHit(b *testing.B) {
	for _, size := range []int{16, 1024} {
		b.Run(fmt.Sprintf("value=%d", size), func(b *testing.B) {
			kv, keys := owned(b, 100, size)
			ctx := context.Background()
			for i := 0; b.Loop(); i++ {
				if _, err := kv.Get(ctx, keys[i%len(keys)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHitParallel(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			kv, keys := owned(b, n, 16)
			ctx := context.Background()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := kv.Get(ctx, keys[i%len(keys)]); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkTxnHit(b *testing.B) {
	kv, keys := owned(b, 2, 16)
	ctx := context.Background()
	for b.Loop() {
		if _, err := kv.Txn(ctx).
			If(clientv3.Compare(clientv3.Version(keys[0]), ">", 0)).
			Then(clientv3.OpGet(keys[0]), clientv3.OpGet(keys[1])).
			Commit(); err != nil {
			b.Fatal(err)
		}
	}
}
