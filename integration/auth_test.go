package integration_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// guarded is an etcd with users of different rights, a KV of root, and a
// plain client of root. Data is under "d/" and "x/".
type guarded struct {
	*testing.T
	ctx   context.Context
	etcd  *etcdtest.Cluster
	root  *leasing.KV
	plain *clientv3.Client
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	all := clientv3.PermissionType(clientv3.PermReadWrite)
	read := clientv3.PermissionType(clientv3.PermRead)
	data, claims := etcdtest.May(all, "d/"), etcdtest.May(all, "leasing/")
	etcd := etcdtest.Start(t, etcdtest.QuickTicks(), etcdtest.Auth(
		etcdtest.User{Name: "stranger", Password: "p", Rights: []etcdtest.Right{data}},
		etcdtest.User{Name: "watcher", Password: "p", Rights: []etcdtest.Right{data, etcdtest.May(read, "leasing/")}},
		etcdtest.User{Name: "member", Password: "p", Rights: []etcdtest.Right{data, claims}},
	))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	g := &guarded{t, ctx, etcd, open(t, etcd.Client(0), longTTL), etcd.Client(0)}
	for _, key := range []string{"d/owned", "d/free", "x/secret"} {
		_, err := g.root.Put(ctx, key, key)
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.root.Get(ctx, "d/owned"); err != nil {
		t.Fatal(err)
	}
	return g
}

// reads fails unless kv reads the key as root does.
func (g *guarded) reads(kv clientv3.KV, key string) {
	g.Helper()
	want, err := g.plain.Get(g.ctx, key)
	if err != nil {
		g.Fatal(err)
	}
	got, err := kv.Get(g.ctx, key)
	if err != nil || got.Count != want.Count || len(got.Kvs) != len(want.Kvs) ||
		len(got.Kvs) > 0 && got.Kvs[0].String() != want.Kvs[0].String() {
		g.Errorf("%s is read as %v, %v, not as %v", key, got, err, want.Kvs)
	}
}

// denied fails unless an operation is refused for lack of rights, within a few
// requests and without any change of etcd.
func (g *guarded) denied(kv clientv3.KV, sent *etcdtest.Counter, name string, op clientv3.Op) {
	g.Helper()
	revision := func() int64 {
		resp, err := g.plain.Get(g.ctx, "x")
		if err != nil {
			g.Fatal(err)
		}
		return resp.Header.Revision
	}
	rev := revision()
	n := sending(sent, func() {
		if _, err := kv.Do(g.ctx, op); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			g.Errorf("%s: %v", name, err)
		}
	})
	if n > 2 || revision() != rev {
		g.Errorf("%s: %d requests, the store moved by %d", name, n, revision()-rev)
	}
}

// Without rights on the claims etcd serves the reads, which is logged once,
// and refuses the writes.
func TestUserWithoutRightsOnClaims(t *testing.T) {
	g := newGuarded(t)
	core, logs := observer.New(zapcore.InfoLevel)
	var sent etcdtest.Counter
	kv := open(t, g.etcd.Client(0, sent.Option(), etcdtest.As("stranger", "p")), longTTL,
		func(cfg *leasing.Config) { cfg.Logger = zap.New(core) })
	for _, key := range []string{"d/owned", "d/free", "d/none", "d/owned"} {
		if n := sending(&sent, func() { g.reads(kv, key) }); n != 1 {
			t.Errorf("%d requests to read %s", n, key)
		}
	}
	for _, key := range []string{"d/owned", "d/free", "d/none"} {
		g.denied(kv, &sent, "put "+key, clientv3.OpPut(key, "v"))
		g.denied(kv, &sent, "delete "+key, clientv3.OpDelete(key))
		g.denied(kv, &sent, "txn "+key, clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet(key), clientv3.OpPut(key, "v")}, nil))
		g.denied(kv, &sent, "txn with a comparison "+key, clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.Version(key), ">", 0)}, []clientv3.Op{clientv3.OpDelete(key)}, []clientv3.Op{clientv3.OpPut(key, "v")}))
		g.reads(kv, key)
	}
	g.denied(kv, &sent, "delete range", clientv3.OpDelete("d/", clientv3.WithPrefix()))

	// The watch is tried again and again; that is not news.
	for tries := sent.Of("Watch"); sent.Of("Watch") < tries+2; {
		select {
		case <-g.ctx.Done():
			t.Fatal("the watch is not tried again")
		case <-time.After(5 * time.Millisecond):
		}
	}
	if all := logs.All(); len(all) != 1 || all[0].Level != zapcore.WarnLevel {
		t.Errorf("logged: %v", all)
	}
}

// A client without credentials is refused everything, and New does not wait for more.
func TestNobody(t *testing.T) {
	g := newGuarded(t)
	kv := open(t, g.etcd.Client(0, etcdtest.As("", "")), longTTL)
	for name, op := range map[string]clientv3.Op{"get": clientv3.OpGet("d/free"), "put": clientv3.OpPut("d/free", "v")} {
		if _, err := kv.Do(g.ctx, op); !errors.Is(err, rpctypes.ErrUserEmpty) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Rights to look at claims, but not to make any, are none that help to write.
func TestUserWithReadRightsOnClaims(t *testing.T) {
	g := newGuarded(t)
	var sent etcdtest.Counter
	core, logs := observer.New(zapcore.WarnLevel)
	kv := open(t, g.etcd.Client(0, sent.Option(), etcdtest.As("watcher", "p")), longTTL,
		func(cfg *leasing.Config) { cfg.Logger = zap.New(core) })
	for range 2 {
		for _, key := range []string{"d/owned", "d/free", "d/none"} {
			g.reads(kv, key)
			g.denied(kv, &sent, "put "+key, clientv3.OpPut(key, "v"))
		}
	}
	if n := sending(&sent, func() { g.reads(kv, "d/free") }); n != 1 {
		t.Errorf("%d requests to read a key whose claim was refused", n)
	}
	if all := logs.All(); len(all) != 1 || all[0].Level != zapcore.WarnLevel {
		t.Errorf("logged: %v", all)
	}
	g.denied(kv, &sent, "delete of somebody else's", clientv3.OpDelete("d/owned"))
	g.denied(kv, &sent, "delete range", clientv3.OpDelete("d/", clientv3.WithPrefix()))
}

// Claims are sent together, and etcd refuses them together; but who may read
// a key is not refused for what another caller asked for.
func TestRefusalIsNotAnotherCallers(t *testing.T) {
	g := newGuarded(t)
	first := newGate("d/first")
	var together sync.Once
	batched := make(chan struct{})
	note := etcdtest.Intercept(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if names(req, "x/secret") && names(req, "d/free") && names(req, "d/none") {
			together.Do(func() { close(batched) })
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
	var sent etcdtest.Counter
	kv := open(t, g.etcd.Client(0, sent.Option(), first.option(), note, etcdtest.As("member", "p")), longTTL)

	var calls sync.WaitGroup
	first.fill(func(key string) { g.reads(kv, key) }, &calls)
	for _, key := range []string{"d/free", "x/secret", "d/none", "x/secret"} {
		waits := watch(g.ctx)
		calls.Go(func() {
			_, err := kv.Get(waits, key)
			if key == "x/secret" && !errors.Is(err, rpctypes.ErrPermissionDenied) || key != "x/secret" && err != nil {
				t.Errorf("read of %s: %v", key, err)
			}
		})
		<-waits.waiting
	}
	close(first.release)
	calls.Wait()
	select {
	case <-batched:
	default:
		t.Error("the claims were not sent together")
	}
	for _, key := range []string{"d/free", "d/none"} {
		if n := sending(&sent, func() { g.reads(kv, key) }); n != 0 {
			t.Errorf("%s is not owned: %d requests", key, n)
		}
	}
}

// Rights on data are etcd's to judge, as long as it is asked.
func TestReadRightsStayEnforced(t *testing.T) {
	g := newGuarded(t)
	var sent etcdtest.Counter
	kv := open(t, g.etcd.Client(0, sent.Option(), etcdtest.As("member", "p")), longTTL)
	g.reads(kv, "d/free")
	if n := sending(&sent, func() { g.reads(kv, "d/free") }); n != 0 {
		t.Errorf("%d requests to read an owned key", n)
	}
	secret := clientv3.OpGet("x/secret")
	compared := []clientv3.Cmp{clientv3.Compare(clientv3.Version("x/secret"), ">", 0)}
	for range 2 {
		g.denied(kv, &sent, "get", secret)
		g.denied(kv, &sent, "count", clientv3.OpGet("x/secret", clientv3.WithCountOnly()))
		g.denied(kv, &sent, "get range", clientv3.OpGet("d/", clientv3.WithRange("x/t")))
		g.denied(kv, &sent, "txn", clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("d/free"), secret}, nil))
		g.denied(kv, &sent, "nested", clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpTxn(nil, []clientv3.Op{secret}, nil)}, nil))
		g.denied(kv, &sent, "comparison", clientv3.OpTxn(compared, []clientv3.Op{clientv3.OpGet("d/free")}, nil))
		g.denied(kv, &sent, "comparison and write", clientv3.OpTxn(compared, []clientv3.Op{clientv3.OpPut("d/free", "v")}, nil))
		g.denied(kv, &sent, "put", clientv3.OpPut("x/secret", "v"))
		g.denied(kv, &sent, "put, prev", clientv3.OpPut("x/secret", "v", clientv3.WithPrevKV()))
		g.denied(kv, &sent, "put beside others", clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("d/free", "v"), clientv3.OpPut("x/secret", "v")}, nil))
		g.denied(kv, &sent, "delete", clientv3.OpDelete("x/secret"))
		g.denied(kv, &sent, "delete range", clientv3.OpDelete("x/", clientv3.WithPrefix()))
		g.reads(kv, "d/free") // nothing of all that was applied
	}

	// Rights that are taken away are missed at the next key that is not owned.
	if _, err := g.plain.RoleRevokePermission(g.ctx, "member", "d/", clientv3.GetPrefixRangeEnd("d/")); err != nil {
		t.Fatal(err)
	}
	g.denied(kv, &sent, "get, without rights", clientv3.OpGet("d/none"))
	g.denied(kv, &sent, "get of somebody else's, without rights", clientv3.OpGet("d/owned"))
	g.denied(kv, &sent, "put, without rights", clientv3.OpPut("d/free", "v"))
}

// The right to write is enough to write. But an owner reads back what it writes: who
// loses the right to read a key goes on reading it from memory, and cannot write it
// before it is given back.
func TestWithdrawnReadRightOfAnOwner(t *testing.T) {
	g := newGuarded(t)
	var sent etcdtest.Counter
	kv := open(t, g.etcd.Client(0, sent.Option(), etcdtest.As("member", "p")), longTTL)
	g.reads(kv, "d/free")
	writeOnly := clientv3.PermissionType(clientv3.PermWrite)
	if _, err := g.plain.RoleGrantPermission(g.ctx, "member", "d/", clientv3.GetPrefixRangeEnd("d/"), writeOnly); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(g.ctx, "d/none", "v"); err != nil {
		t.Errorf("put of a key that nobody owns: %v", err)
	}
	if n := sending(&sent, func() { g.reads(kv, "d/free") }); n != 0 {
		t.Errorf("%d requests to read an owned key", n)
	}
	g.denied(kv, &sent, "put of an owned key", clientv3.OpPut("d/free", "v"))
	if err := kv.Release(g.ctx, "d/free"); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(g.ctx, "d/free", "v"); err != nil {
		t.Errorf("put of the key that was given back: %v", err)
	}
}

// A user who loses the right to write claims loses what is owned: etcd does not renew
// a lease for him either, so it is over when the TTL is. Then etcd serves the reads.
//
// Invariant: I2.
func TestWithdrawnRightsOnClaimsEndOwnership(t *testing.T) {
	end := clientv3.GetPrefixRangeEnd("leasing/")
	for name, withdraw := range map[string]func(g *guarded) error{
		"all": func(g *guarded) error { return second(g.plain.RoleRevokePermission(g.ctx, "member", "leasing/", end)) },
		"to write": func(g *guarded) error {
			return second(g.plain.RoleGrantPermission(g.ctx, "member", "leasing/", end, clientv3.PermissionType(clientv3.PermRead)))
		},
	} {
		t.Run(name, func(t *testing.T) { newGuarded(t).losesWhatIsOwned(withdraw) })
	}
}

func second[T any](_ T, err error) error { return err }

// losesWhatIsOwned fails unless a member owns nothing any more when the TTL is over
// since rights on the claims were withdrawn, and knows why.
func (g *guarded) losesWhatIsOwned(withdraw func(*guarded) error) {
	g.Helper()
	core, logs := observer.New(zapcore.WarnLevel)
	var sent etcdtest.Counter
	const ttl = 3 * time.Second
	kv := open(g.T, g.etcd.Client(0, sent.Option(), etcdtest.As("member", "p")), func(cfg *leasing.Config) {
		cfg.TTL, cfg.Logger = ttl, zap.New(core)
	})
	g.reads(kv, "d/free")
	if !kv.Owned("d/free") {
		g.Fatal("the key is not owned")
	}
	if err := withdraw(g); err != nil {
		g.Fatal(err)
	}
	for withdrawn := time.Now(); kv.Owned("d/free"); time.Sleep(5 * time.Millisecond) {
		if time.Since(withdrawn) > ttl {
			g.Fatal("the key is owned for longer than a lease that is not renewed")
		}
	}
	for range 2 {
		if n := sending(&sent, func() { g.reads(kv, "d/free") }); n == 0 {
			g.Error("the key is read from memory")
		}
	}
	if logs.FilterMessageSnippet("etcd refuses to renew a lease").Len() == 0 {
		g.Errorf("logged: %v", logs.All())
	}
}

// Rights to the claims of one's own data are enough to write it, and with a
// plain client to delete nothing but those claims. What a KV sends instead must
// not take rights to the first of all claims.
//
// Invariants: I11, I13.
func TestUserMayDeleteNothingButItsClaims(t *testing.T) {
	all := clientv3.PermissionType(clientv3.PermReadWrite)
	etcd := etcdtest.Start(t, etcdtest.QuickTicks(), etcdtest.Auth(
		etcdtest.User{Name: "tenant", Password: "p", Rights: []etcdtest.Right{etcdtest.May(all, "d/"), etcdtest.May(all, "leasing/d/")}},
	))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	plain := etcd.Client(0, etcdtest.As("tenant", "p"))
	kv := open(t, etcd.Client(0, etcdtest.As("tenant", "p")), longTTL)
	if _, err := kv.Put(ctx, "d/k", "v"); err != nil {
		t.Fatal(err) // no: it may write
	}
	for name, op := range map[string]clientv3.Op{
		"its claims": clientv3.OpDelete("leasing/d/", clientv3.WithPrefix()),
		"and data": clientv3.OpTxn(nil, []clientv3.Op{
			clientv3.OpPut("d/k", "w"), clientv3.OpDelete("leasing/d/x", clientv3.WithPrefix()),
		}, nil),
	} {
		if _, err := plain.Do(ctx, op); err != nil {
			t.Errorf("%s, by a plain client: %v", name, err)
		}
		if _, err := kv.Do(ctx, op); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
