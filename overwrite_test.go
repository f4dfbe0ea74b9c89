package leasing

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// Invariant: I12. Readers who overwrite all that they get, also behind its end, harm nobody,
// while the value of the key grows and shrinks through all sizes of replies.
func TestI12ReadersOverwriteWhileTheValueGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, _ := srv.Client("kv")
		kv, err := New(t.Context(), cl, Config{Prefix: "claims/", TTL: rigTTL})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		const key = "sixteen bytes..."
		spoil := func(k, v []byte) {
			if string(k) != key || len(v) > 0 && !bytes.Equal(v, bytes.Repeat([]byte{byte('a' + len(v)%26)}, len(v))) {
				t.Errorf("read %q = %q", k, v)
			}
			clear(k[:cap(k)])
			clear(v[:cap(v)])
		}
		if _, err := kv.Put(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Prefetch(t.Context(), key); err != nil || !kv.Owned(key) {
			t.Fatalf("not owned: %v", err)
		}
		var wg sync.WaitGroup
		done := make(chan struct{})
		for range 3 {
			wg.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					if r, err := kv.Get(t.Context(), key); err != nil {
						t.Error(err)
					} else if len(r.Kvs) > 0 {
						spoil(r.Kvs[0].Key, r.Kvs[0].Value)
					}
					r, err := kv.Txn(t.Context()).Then(clientv3.OpGet(key), clientv3.OpGet(key)).Commit()
					if err != nil {
						t.Error(err)
						continue
					}
					for _, op := range r.Responses {
						if kvs := op.GetResponseRange().Kvs; len(kvs) > 0 {
							spoil(kvs[0].Key, kvs[0].Value)
						}
					}
				}
			})
		}
		const writes = 300
		for i := range writes {
			n := i * 7 % 90
			if _, err := kv.Put(t.Context(), key, strings.Repeat(string(rune('a'+n%26)), n)); err != nil {
				t.Error(err)
			}
			if r, err := kv.Get(t.Context(), key); err != nil || len(r.Kvs[0].Value) != n {
				t.Errorf("read back: %v, %v", r, err)
			} else {
				spoil(r.Kvs[0].Key, r.Kvs[0].Value)
			}
		}
		close(done)
		wg.Wait()
		if n := kv.Stats().Hits; n < writes {
			t.Errorf("%d reads were from memory", n)
		}
	})
}
