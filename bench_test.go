package leasing_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
)

// opened returns a KV on an etcd in memory.
func opened(tb testing.TB) *leasing.KV {
	tb.Helper()
	cl, stop := connect()
	tb.Cleanup(stop)
	kv, err := leasing.New(context.Background(), cl, leasing.Config{Prefix: "leasing/"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { kv.Close() })
	return kv
}

// owned returns a KV that owns n keys with values of the given size.
func owned(tb testing.TB, n, size int) (*leasing.KV, []string) {
	tb.Helper()
	kv := opened(tb)
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%012d", i)
		if _, err := kv.Put(context.Background(), keys[i], strings.Repeat("v", size)); err != nil {
			tb.Fatal(err)
		}
		if _, err := kv.Get(context.Background(), keys[i]); err != nil {
			tb.Fatal(err)
		}
	}
	return kv, keys
}

func BenchmarkHit(b *testing.B) {
	for _, size := range []int{16, 1024} {
		b.Run(fmt.Sprintf("value=%d", size), func(b *testing.B) {
			kv, keys := owned(b, 100, size)
			b.ReportAllocs()
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
			b.ReportAllocs()
			b.ResetTimer()
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
	b.ReportAllocs()
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

// BenchmarkMiss reads a key that nobody owns, and so claims it, on the etcd in
// memory, whose allocations count as well.
func BenchmarkMiss(b *testing.B) {
	kv := opened(b)
	b.ReportAllocs()
	ctx := context.Background()
	for i := 0; b.Loop(); i++ {
		if _, err := kv.Get(ctx, fmt.Sprintf("key-%012d", i)); err != nil {
			b.Fatal(err)
		}
	}
}
