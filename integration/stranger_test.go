package integration_test

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// Writes of a plain client are noticed under Config.WatchData, each way of writing, and
// those of this KV and of another one are not mistaken for them.
func TestWatchDataNoticesStrangers(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	stranger := etcd.Client(0)
	written := make(chan string, 100)
	kv := open(t, etcd.Client(0), longTTL, func(cfg *leasing.Config) {
		cfg.WatchData = []string{"data/"}
		cfg.OnEvent = func(e leasing.Event) {
			if e.Kind == leasing.KeyWritten {
				written <- e.Key
			}
		}
	})
	other := open(t, etcd.Client(0), longTTL)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lease, err := stranger.Grant(ctx, 300)
	must(err)

	for name, write := range map[string]func(key string) error{
		"put":    func(key string) error { _, err := stranger.Put(ctx, key, "new"); return err },
		"delete": func(key string) error { _, err := stranger.Delete(ctx, key); return err },
		"range":  func(key string) error { _, err := stranger.Delete(ctx, key, clientv3.WithPrefix()); return err },
		"lease": func(key string) error {
			_, err := stranger.Put(ctx, key, "new", clientv3.WithLease(lease.ID))
			return err
		},
		"txn": func(key string) error {
			_, err := stranger.Txn(ctx).Then(clientv3.OpPut(key, "new")).Commit()
			return err
		},
	} {
		key := "data/" + name
		_, err := kv.Put(ctx, key, "old")
		must(err)
		_, err = kv.Get(ctx, key)
		must(err)
		_, err = kv.Put(ctx, key, "ours")
		must(err)
		_, err = kv.Get(ctx, key)
		must(err)
		if !kv.Owned(key) {
			t.Fatalf("%s is not owned", key)
		}
		must(write(key))
		select {
		case got := <-written:
			if got != key {
				t.Errorf("a stranger is said to have written %q, not %q", got, key)
			}
		case <-ctx.Done():
			t.Fatalf("nobody noticed the %s", name)
		}
		want, err := stranger.Get(ctx, key)
		must(err)
		got, err := kv.Get(ctx, key)
		must(err)
		if got.Count != want.Count || want.Count > 0 && got.Kvs[0].String() != want.Kvs[0].String() {
			t.Errorf("after a %s, read %v, want %v", name, got.Kvs, want.Kvs)
		}
	}

	_, err = kv.Get(ctx, "data/shared")
	must(err)
	_, err = other.Put(ctx, "data/shared", "theirs")
	must(err)
	_, err = stranger.Put(ctx, "data/put", "again") // not owned since: nobody is told
	must(err)
	if n := kv.Stats().Strangers; n != 5 || len(written) != 0 {
		t.Errorf("%d strangers, %d more told of", n, len(written))
	}
}

// The servers under test are new enough: they are asked, and nothing is said.
func TestServerVersionIsAskedFor(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks(), etcdtest.Members(3))
	var sent etcdtest.Counter
	cl, err := etcd.NewClient([]string{etcd.Endpoint(0), etcd.Endpoint(1), etcd.Endpoint(2)}, sent.Option())
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.DebugLevel)
	open(t, cl, func(cfg *leasing.Config) { cfg.Logger = zap.New(core) })
	for end := time.Now().Add(30 * time.Second); sent.Of("Status") < 3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("3 servers were asked for their version %d times", sent.Of("Status"))
		}
	}
	for _, snippet := range []string{"too old", "cannot ask a server"} {
		if said := logs.FilterMessageSnippet(snippet).All(); len(said) > 0 {
			t.Errorf("the log says %v", said)
		}
	}
}
