package leasing_test

import (
	"context"
	"fmt"
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// connect stands for clientv3.New in the examples: it connects to an etcd in
// memory, so that they run without a server.
func connect() (*clientv3.Client, func()) {
	srv := memetcd.New(memetcd.Options{})
	cl := srv.NewClient("example")
	return cl, func() { cl.Close(); srv.Close() }
}

// open opens a KV on such a client. The function that it returns closes both.
func open(ctx context.Context, cfg leasing.Config) (*leasing.KV, func()) {
	cl, stop := connect()
	kv, err := leasing.New(ctx, cl, cfg)
	if err != nil {
		log.Fatal(err)
	}
	return kv, func() { kv.Close(); stop() }
}

func Example() {
	cl, stop := connect()
	defer stop()
	ctx := context.Background()

	kv, err := leasing.New(ctx, cl, leasing.Config{Prefix: "leasing/"})
	if err != nil {
		log.Fatal(err)
	}
	defer kv.Close() // hands every key over

	if _, err := kv.Put(ctx, "greeting", "hello"); err != nil {
		log.Fatal(err)
	}
	kv.Get(ctx, "greeting")              // claims the key
	resp, err := kv.Get(ctx, "greeting") // from memory
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", resp.Kvs[0].Value)
	// Output: hello
}

// The whole of it, with a client of a real etcd.
func ExampleNew_client() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := greet(ctx); err != nil {
		fmt.Println(err)
	}
}

func greet(ctx context.Context) error {
	cl, err := clientv3.New(clientv3.Config{Endpoints: []string{"localhost:2379"}})
	if err != nil {
		return err
	}
	defer cl.Close()
	kv, err := leasing.New(ctx, cl, leasing.Config{Prefix: "leasing/"}) // waits for etcd as long as ctx lets it
	if err != nil {
		return err
	}
	defer kv.Close() // hands every key over

	if _, err := kv.Put(ctx, "greeting", "hello"); err != nil { // one transaction, nearly as quick as a plain put
		return err
	}
	if _, err := kv.Get(ctx, "greeting"); err != nil { // claims the key
		return err
	}
	resp, err := kv.Get(ctx, "greeting") // from memory
	if err != nil {
		return err
	}
	fmt.Println(resp.Kvs)
	return nil
}

// A KV takes the place of a client's own, for everything that is given the
// client.
func ExampleNewKV() {
	cl, stop := connect()
	defer stop()

	kv, closeKV, err := leasing.NewKV(cl, "leasing/", concurrency.WithTTL(30))
	if err != nil {
		log.Fatal(err)
	}
	defer closeKV()
	cl.KV = kv

	cl.Put(context.Background(), "k", "v")
	resp, err := cl.Get(context.Background(), "k")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Count)
	// Output: 1
}

// The context given to New bounds how long it waits for etcd.
func ExampleNew() {
	cl, stop := connect()
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	kv, err := leasing.New(ctx, cl, leasing.Config{
		Prefix: "leasing/",
		TTL:    20 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(kv.Close())
	// Output: <nil>
}

// What is owned can be bounded in keys and in bytes, and given back when nobody
// reads it any more.
func ExampleConfig() {
	cl, stop := connect()
	defer stop()

	kv, err := leasing.New(context.Background(), cl, leasing.Config{
		Prefix:      "leasing/",
		MaxKeys:     10_000,
		MaxBytes:    64 << 20,
		IdleTimeout: 10 * time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(kv.Close())

	_, err = leasing.New(context.Background(), cl, leasing.Config{Prefix: "leasing/", IdleTimeout: time.Millisecond})
	fmt.Println(err)
	// Output:
	// <nil>
	// leasing: Config.IdleTimeout is 1ms: it must be at least 1s, or 0 for none
}

// Transactions decide in etcd, or in memory if they turn out to read owned
// keys only.
func ExampleKV_Txn() {
	cl, stop := connect()
	defer stop()
	ctx := context.Background()
	kv, err := leasing.New(ctx, cl, leasing.Config{Prefix: "leasing/"})
	if err != nil {
		log.Fatal(err)
	}
	defer kv.Close()

	resp, err := kv.Txn(ctx).
		If(clientv3.Compare(clientv3.Version("lock"), "=", 0)).
		Then(clientv3.OpPut("lock", "me")).
		Else(clientv3.OpGet("lock")).
		Commit()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Succeeded)
	// Output: true
}

// A KV uses the client's KV, Watcher and Lease as it finds them, so a
// namespace goes around all three, claims included.
func ExampleNew_namespace() {
	cl, stop := connect()
	defer stop()
	ctx := context.Background()

	cl.KV = namespace.NewKV(cl.KV, "app/")
	cl.Watcher = namespace.NewWatcher(cl.Watcher, "app/")
	cl.Lease = namespace.NewLease(cl.Lease, "app/")
	kv, err := leasing.New(ctx, cl, leasing.Config{Prefix: "leasing/"})
	if err != nil {
		log.Fatal(err)
	}
	defer kv.Close()

	resp, err := kv.Get(ctx, "k")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Count)
	// Output: 0
}

// Owned tells what a read would cost.
func ExampleKV_Owned() {
	ctx := context.Background()
	kv, stop := open(ctx, leasing.Config{Prefix: "leasing/"})
	defer stop()

	fmt.Println(kv.Owned("k"))
	if _, err := kv.Get(ctx, "k"); err != nil { // claims the key
		log.Fatal(err)
	}
	fmt.Println(kv.Owned("k"))
	// Output:
	// false
	// true
}

// A service that reads its configuration all the time owns it from the start.
func ExampleKV_Prefetch() {
	cl, stop := connect()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cl.Put(ctx, "config/a", "1")
	cl.Put(ctx, "config/b", "2")
	kv, err := leasing.New(ctx, cl, leasing.Config{Prefix: "leasing/"})
	if err != nil {
		log.Fatal(err)
	}
	defer kv.Close()

	n, err := kv.Prefetch(ctx, "config/", clientv3.WithPrefix())
	if err != nil {
		log.Print(err) // reads work all the same
	}
	fmt.Println(n)
	resp, err := kv.Get(ctx, "config/b") // from memory
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", resp.Kvs[0].Value)
	// Output:
	// 2
	// 2
}

// Who knows that others are going to write a key gives it back, so that they need not
// ask for it.
func ExampleKV_Release() {
	ctx := context.Background()
	kv, stop := open(ctx, leasing.Config{Prefix: "leasing/"})
	defer stop()

	if _, err := kv.Get(ctx, "job/1"); err != nil { // claims the key
		log.Fatal(err)
	}
	if err := kv.Release(ctx, "job/1", "job/2"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(kv.Owned("job/1"))
	// Output: false
}

// With ClaimAfter a scan of many keys that are read once writes no claims.
func ExampleConfig_claimAfter() {
	ctx := context.Background()
	kv, stop := open(ctx, leasing.Config{Prefix: "leasing/", ClaimAfter: 2})
	defer stop()

	for range 2 {
		if _, err := kv.Get(ctx, "k"); err != nil {
			log.Fatal(err)
		}
		fmt.Println(kv.Owned("k"))
	}
	// Output:
	// false
	// true
}

// An observer hears what becomes of the session and of keys. It may take its time.
func ExampleConfig_onEvent() {
	ctx := context.Background()
	heard := make(chan leasing.Event, 100)
	kv, stop := open(ctx, leasing.Config{
		Prefix:  "leasing/",
		OnEvent: func(e leasing.Event) { heard <- e },
	})
	defer stop()

	if _, err := kv.Get(ctx, "k"); err != nil { // claims the key
		log.Fatal(err)
	}
	if err := kv.Release(ctx, "k"); err != nil {
		log.Fatal(err)
	}
	for range 3 {
		e := <-heard
		fmt.Printf("%v %q\n", e.Kind, e.Key)
	}
	// Output:
	// session valid ""
	// key claimed "k"
	// key yielded "k"
}

// A program that does not use the protocol writes a key that is owned here. The watch on
// data notices.
func ExampleConfig_watchData() {
	cl, stop := connect()
	defer stop()
	ctx := context.Background()
	strangers := make(chan string, 100)
	kv, err := leasing.New(ctx, cl, leasing.Config{
		Prefix:    "leasing/",
		WatchData: []string{"config/"},
		OnEvent: func(e leasing.Event) {
			if e.Kind == leasing.KeyWritten {
				strangers <- e.Key
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer kv.Close()

	if _, err := kv.Get(ctx, "config/a"); err != nil { // claims the key
		log.Fatal(err)
	}
	if _, err := cl.Put(ctx, "config/a", "1"); err != nil { // as etcdctl would
		log.Fatal(err)
	}
	fmt.Println(<-strangers)
	resp, err := kv.Get(ctx, "config/a")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", resp.Kvs[0].Value)
	// Output:
	// config/a
	// 1
}

// Where etcd's --max-txn-ops is not the default, the KV has to know.
func ExampleConfig_maxTxnOps() {
	ctx := context.Background()
	kv, stop := open(ctx, leasing.Config{Prefix: "leasing/", MaxTxnOps: 1024})
	defer stop()

	var puts []clientv3.Op
	for i := range 100 {
		puts = append(puts, clientv3.OpPut(fmt.Sprint("k", i), "v"))
	}
	resp, err := kv.Txn(ctx).Then(puts...).Commit()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(resp.Responses))
	// Output: 100
}

// The KV logs where the client does, or where it is told to.
func ExampleConfig_logger() {
	ctx := context.Background()
	core, logs := observer.New(zap.InfoLevel)
	_, stop := open(ctx, leasing.Config{Prefix: "leasing/", Logger: zap.New(core)})
	defer stop()

	for _, e := range logs.All() {
		fmt.Println(e.Level, e.Message)
	}
	// Output:
	// info leasing: lease granted
	// info leasing: session valid
}

// Counters only grow: a share is that of two differences.
func ExampleKV_Stats() {
	ctx := context.Background()
	kv, stop := open(ctx, leasing.Config{Prefix: "leasing/"})
	defer stop()

	before := kv.Stats()
	for range 100 {
		if _, err := kv.Get(ctx, "k"); err != nil { // the first one claims the key
			log.Fatal(err)
		}
	}
	after := kv.Stats()
	hits, claims := after.Hits-before.Hits, after.Claims.Made-before.Claims.Made
	fmt.Printf("%d hits, %d claim, %d key owned\n", hits, claims, after.Entries)
	// Output: 99 hits, 1 claim, 1 key owned
}

// The keys that are worth looking at, on both sides.
func ExampleKV_TopKeys() {
	ctx := context.Background()
	kv, stop := open(ctx, leasing.Config{Prefix: "leasing/"})
	defer stop()

	for range 100_000 {
		if _, err := kv.Get(ctx, "popular"); err != nil {
			log.Fatal(err)
		}
	}
	hot, contended := kv.TopKeys(10)
	fmt.Println(hot[0].Key, len(contended))
	// Output: popular 0
}

// A request on somebody else's behalf, whose credentials an interceptor takes from the
// context, is for etcd to judge.
func ExampleKV_Uncached() {
	ctx := context.Background()
	kv, stop := open(ctx, leasing.Config{Prefix: "leasing/"})
	defer stop()

	if _, err := kv.Put(ctx, "k", "v"); err != nil {
		log.Fatal(err)
	}
	resp, err := kv.Uncached().Get(ctx, "k") // from etcd; claims nothing
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s %v\n", resp.Kvs[0].Value, kv.Owned("k"))
	// Output: v false
}
