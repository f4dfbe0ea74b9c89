package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	etcdleasing "go.etcd.io/etcd/client/v3/leasing"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// A write of keys that both ours and theirs own goes through, whoever
// writes.
func TestMixedFleetWritesAcross(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	var sentOurs, sentTheirs etcdtest.Counter
	ours := fltOpen(t, etcd.Client(0, sentOurs.Option()), 5*time.Second)
	theirs := fltTheirs(t, etcd.Client(0, sentTheirs.Option()))
	writers := map[string]clientv3.KV{
		"ours, which owns one":       ours,
		"theirs, which owns one":     theirs,
		"ours, which owns neither":   fltOpen(t, etcd.Client(0), 5*time.Second),
		"theirs, which owns neither": fltTheirs(t, etcd.Client(0)),
	}
	for _, w := range []struct {
		name, want string
		write      func(ctx context.Context, kv clientv3.KV, one, other string) error
	}{
		{"transaction", "2", func(ctx context.Context, kv clientv3.KV, one, other string) error {
			resp, err := kv.Txn(ctx).
				If(clientv3.Compare(clientv3.Value(one), "=", "1"), clientv3.Compare(clientv3.Value(other), "=", "1")).
				Then(clientv3.OpPut(one, "2"), clientv3.OpPut(other, "2")).
				Else(clientv3.OpGet(one)).Commit()
			if err == nil && !resp.Succeeded {
				err = fmt.Errorf("the comparisons fail: %v", resp.Responses)
			}
			return err
		}},
		{"deletion of a range", "", func(ctx context.Context, kv clientv3.KV, one, other string) error {
			_, err := kv.Delete(ctx, one, clientv3.WithRange(other+"\x00"))
			return err
		}},
	} {
		for who, writer := range writers {
			t.Run(w.name+" by "+who, func(t *testing.T) {
				one, other := w.name+who+"/1", w.name+who+"/2"
				fltPut(t, plain, one, "1") // nobody knows the keys yet
				fltPut(t, plain, other, "1")
				fltOwn(t, ours, &sentOurs, one)
				fltOwn(t, theirs, &sentTheirs, other)
				if err := w.write(fltContext(t), writer, one, other); err != nil {
					t.Fatal(err)
				}
				for _, key := range []string{one, other} {
					fltAgree(t, key, w.want, plain, ours, theirs, writer)
				}
			})
		}
	}
}

// fltMixed are an owner and a writer, one of ours and one of theirs.
type fltMixed struct {
	plain    *clientv3.Client
	link     *etcdtest.Relay  // of the owner
	cl       *clientv3.Client // of the owner
	owner    clientv3.KV
	closeKV  func() // closes the owner
	writer   clientv3.KV
	ourOwner bool
}

// fltHandsOver has an owner of either kind claim a key, lose it, and a writer
// of the other kind write it.
func fltHandsOver(t *testing.T, lose func(t *testing.T, m *fltMixed)) {
	for name, ourOwner := range map[string]bool{"ours to theirs": true, "theirs to ours": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const ttl = 2 * time.Second
			etcd := etcdtest.Start(t, etcdtest.QuickTicks())
			plain := etcd.Client(0)
			var sent etcdtest.Counter
			m := &fltMixed{plain: plain, link: etcd.Relay(0), ourOwner: ourOwner}
			m.cl = etcd.ClientVia(m.link, sent.Option())
			if ourOwner {
				kv := fltOpen(t, m.cl, ttl)
				m.owner, m.closeKV, m.writer = kv, func() { kv.Close() }, fltTheirs(t, etcd.Client(0))
			} else {
				kv, closeKV, err := etcdleasing.NewKV(m.cl, fltPrefix, concurrency.WithTTL(int(ttl/time.Second)))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(closeKV)
				m.owner, m.closeKV, m.writer = kv, closeKV, fltOpen(t, etcd.Client(0), ttl)
			}
			fltPut(t, plain, "k", "1") // nobody knows the key yet
			fltOwn(t, m.owner, &sent, "k")
			lose(t, m)
			fltPut(t, m.writer, "k", "2")
			fltAgree(t, "k", "2", plain, m.writer)
			if ourOwner { // theirs may serve what it had until it notices
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				resp, err := m.owner.Get(ctx, "k")
				cancel()
				if err == nil && (len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "2") {
					t.Errorf("the owner that was reads %v", resp.Kvs)
				}
			}
		})
	}
}

// An owner that closes leaves nothing in the way. Theirs does not
// revoke its lease, which expires when its client is closed.
func TestMixedFleetOwnerCloses(t *testing.T) {
	fltHandsOver(t, func(t *testing.T, m *fltMixed) {
		m.closeKV()
		if !m.ourOwner {
			m.cl.Close()
		} else if n := fltClaims(t, m.plain); n != 0 {
			t.Errorf("%d claims after Close", n)
		}
	})
}

// What an owner had that is gone without a word can be written when
// its lease has expired.
func TestMixedFleetOwnerLost(t *testing.T) {
	fltHandsOver(t, func(t *testing.T, m *fltMixed) {
		m.link.Cut()
		t.Cleanup(func() { m.link.Heal() })
	})
}

// When ours and theirs claim a key at the same time, one of them gets
// it. When both write it at the same time, or one claims while the other writes,
// all agree afterwards.
func TestMixedFleetRaces(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	kvs := []clientv3.KV{fltOpen(t, etcd.Client(0), 5*time.Second), fltTheirs(t, etcd.Client(0))}
	at := func(do ...func()) {
		var wg sync.WaitGroup
		start := make(chan struct{})
		for _, f := range do {
			wg.Go(func() { <-start; f() })
		}
		close(start)
		wg.Wait()
	}
	won := make(map[string]int)
	for i := range 20 {
		key := fmt.Sprint("k", i)
		claim := func(kv clientv3.KV) func() { return func() { fltGet(t, kv, key) } }
		write := func(kv clientv3.KV, val string) func() { return func() { fltPut(t, kv, key, val) } }
		fltPut(t, plain, key, "1")
		at(claim(kvs[0]), claim(kvs[1]))
		fltAgree(t, key, "1", kvs...)
		if fltClaim(t, plain, key) == nil {
			t.Errorf("nobody owns %q", key)
		}
		at(write(kvs[0], "ours"), write(kvs[1], "theirs"))
		val := fltGet(t, plain, key)
		won[val]++
		fltAgree(t, key, val, kvs...)
		at(claim(kvs[i%2]), write(kvs[1-i%2], "last"))
		fltAgree(t, key, "last", append(kvs, plain)...)
	}
	t.Logf("of writes at the same time these were later: %v", won)
}
