package proxy_test

import (
	"errors"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/proxy"
)

// asRoot gives the proxy's session its credentials.
func asRoot(cfg *proxy.Config) { cfg.Username, cfg.Password = etcdtest.RootName, etcdtest.RootPassword }

func bounded(d time.Duration) func(*proxy.Config) {
	return func(cfg *proxy.Config) { cfg.AuthBound = d }
}

// guarded starts an etcd with three users: alice may do everything with d/ and the
// claims, bob with b/ and the claims, and eve may read d/.
func guarded(t *testing.T, opts ...etcdtest.Option) *etcdtest.Cluster {
	t.Helper()
	all, read := clientv3.PermissionType(clientv3.PermReadWrite), clientv3.PermissionType(clientv3.PermRead)
	user := func(name string, rights ...etcdtest.Right) etcdtest.User {
		return etcdtest.User{Name: name, Password: name, Rights: rights}
	}
	return etcdtest.Start(t, append(opts, etcdtest.QuickTicks(), etcdtest.Auth(
		user("alice", etcdtest.May(all, "d/"), etcdtest.May(all, claims)),
		user("bob", etcdtest.May(all, "b/"), etcdtest.May(all, claims)),
		user("eve", etcdtest.May(read, "d/"), etcdtest.May(all, claims)),
	))...)
}

// refused fails unless an operation is refused with the error, in whatever way it is
// asked for.
func refused(t *testing.T, kv clientv3.KV, name string, want error, op clientv3.Op) {
	t.Helper()
	if r, err := kv.Do(within(t), op); !errors.Is(err, want) {
		t.Errorf("%s: %v, %v, want %v", name, r, err, want)
	}
}

// operations are all that depend on the right to read a key, or to write it.
func operations(key string) map[string]clientv3.Op {
	exists := []clientv3.Cmp{clientv3.Compare(clientv3.Version(key), ">", 0)}
	none := []clientv3.Cmp{clientv3.Compare(clientv3.Version("d/none"), ">", 0)}
	read, write := clientv3.OpGet(key), clientv3.OpPut(key, "stolen")
	then := func(cmps []clientv3.Cmp, ops ...clientv3.Op) clientv3.Op { return clientv3.OpTxn(cmps, ops, nil) }
	return map[string]clientv3.Op{
		"get":                    read,
		"get, serializable":      clientv3.OpGet(key, clientv3.WithSerializable()),
		"get, keys only":         clientv3.OpGet(key, clientv3.WithKeysOnly()),
		"get, count only":        clientv3.OpGet(key, clientv3.WithCountOnly()),
		"get, prefix":            clientv3.OpGet(key, clientv3.WithPrefix()),
		"get, range of one":      clientv3.OpGet(key, clientv3.WithRange(key+"\x00")),
		"get, all":               clientv3.OpGet("", clientv3.WithPrefix()),
		"txn":                    then(nil, read),
		"txn, comparison":        then(exists),
		"txn, taken branch":      then(exists, read),
		"txn, other branch":      clientv3.OpTxn(exists, nil, []clientv3.Op{read}),
		"txn, write not taken":   then(none, write),
		"txn, nested":            then(nil, then(nil, read)),
		"txn, nested comparison": then(nil, then(exists)),
		"put":                    write,
		"put, previous":          clientv3.OpPut(key, "stolen", clientv3.WithPrevKV()),
		"delete":                 clientv3.OpDelete(key),
		"delete, prefix":         clientv3.OpDelete(key, clientv3.WithPrefix()),
	}
}

// What one user may read from memory another may not read at all.
func TestOthersAreRefused(t *testing.T) {
	etcd := guarded(t)
	p := start(t, etcd, asRoot)
	alice, bob := p.client("alice"), p.client("bob")
	put(t, alice, "d/k", "secret")
	p.owned(alice, "d/k")
	for name, op := range operations("d/k") {
		refused(t, bob, name, rpctypes.ErrPermissionDenied, op)
	}
	get(t, alice, "d/k", "secret")
	refused(t, p.client("eve"), "put by who may read", rpctypes.ErrPermissionDenied, clientv3.OpPut("d/k", "stolen"))
	get(t, alice, "d/k", "secret")
}

// Callers without credentials are refused as etcd does, though the proxy has some.
func TestAnonymousIsRefused(t *testing.T) {
	etcd := guarded(t)
	p := start(t, etcd, asRoot)
	put(t, p.client("alice"), "d/k", "secret")
	p.owned(p.client("alice"), "d/k")
	nobody := p.client("")
	for range 2 {
		for name, op := range operations("d/k") {
			refused(t, nobody, name, rpctypes.ErrUserEmpty, op)
		}
	}
	if _, err := nobody.Compact(within(t), 1); !errors.Is(err, rpctypes.ErrUserEmpty) {
		t.Errorf("compaction: %v", err)
	}
	if r := <-nobody.Watch(within(t), "d/k"); r.Err() == nil {
		t.Errorf("watch: %v", r)
	}
	if _, err := nobody.UserList(within(t)); !errors.Is(err, rpctypes.ErrUserEmpty) {
		t.Errorf("users: %v", err)
	}
}

// A token that etcd does not know gets etcd's error, once.
func TestUnknownToken(t *testing.T) {
	m, opt := metered(t)
	etcd := guarded(t, opt)
	p := start(t, etcd, asRoot)
	put(t, p.client("alice"), "d/k", "secret")
	p.owned(p.client("alice"), "d/k")
	kv := pb.NewKVClient(p.conn())
	for _, pairs := range [][]string{
		{"token", "x.1"}, {"authorization", "x.1"}, {"token", ""}, {"token", "x.1", "token", "y.2"}, {"authorization", "Bearer x.1"},
	} {
		ctx := metadata.AppendToOutgoingContext(within(t), pairs...)
		before := m.handled(t, "Range", "Authenticate")
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("d/k")})
		if rpctypes.Error(err) != rpctypes.ErrInvalidAuthToken {
			t.Errorf("%q: %v", pairs, err)
		}
		if n := m.handled(t, "Range", "Authenticate") - before; n != 1 {
			t.Errorf("%q: %d requests", pairs, n)
		}
	}
}

// A second token is not looked at by the proxy either: the first counts, as in etcd.
func TestFirstTokenCounts(t *testing.T) {
	etcd := guarded(t)
	p := start(t, etcd, asRoot)
	alice := p.client("alice")
	put(t, alice, "d/k", "secret")
	tokens := map[string]string{}
	for _, name := range []string{"alice", "bob"} {
		resp, err := p.client("").Authenticate(within(t), name, name)
		if err != nil {
			t.Fatal(err)
		}
		tokens[name] = resp.Token
	}
	kv := pb.NewKVClient(p.conn())
	read := func(pairs ...string) error {
		_, err := kv.Range(metadata.AppendToOutgoingContext(within(t), pairs...), &pb.RangeRequest{Key: []byte("d/k")})
		return rpctypes.Error(err)
	}
	for range 3 { // so that alice has read it from memory
		if err := read("token", tokens["alice"]); err != nil {
			t.Fatal(err)
		}
	}
	if err := read("token", tokens["alice"], "token", tokens["bob"]); err != nil {
		t.Errorf("alice first: %v", err)
	}
	if err := read("token", tokens["bob"], "token", tokens["alice"]); err != rpctypes.ErrPermissionDenied {
		t.Errorf("bob first: %v", err)
	}
	if err := read("authorization", tokens["alice"], "token", tokens["bob"]); err != rpctypes.ErrPermissionDenied {
		t.Errorf("alice in the other field: %v", err)
	}
	if err := read("authorization", tokens["alice"]); err != nil {
		t.Errorf("alice in the other field alone: %v", err)
	}
}

// What is withdrawn ends within the bound, even if nothing but memory is asked.
func TestWithdrawnRight(t *testing.T) {
	const bound = 500 * time.Millisecond
	etcd := guarded(t)
	p := start(t, etcd, asRoot, bounded(bound))
	alice, root := p.client("alice"), etcd.Client(0)
	put(t, alice, "d/k", "secret")
	p.owned(alice, "d/k")
	if _, err := root.RoleRevokePermission(within(t), "alice", "d/", clientv3.GetPrefixRangeEnd("d/")); err != nil {
		t.Fatal(err)
	}
	withdrawn := time.Now()
	for {
		asked := time.Now()
		_, err := alice.Get(within(t), "d/k")
		if errors.Is(err, rpctypes.ErrPermissionDenied) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if asked.Sub(withdrawn) > bound {
			t.Fatalf("read %v after the right was withdrawn", asked.Sub(withdrawn))
		}
	}
	refused(t, alice, "serializable", rpctypes.ErrPermissionDenied, clientv3.OpGet("d/k", clientv3.WithSerializable()))
}

// Authentication that is turned on later ends reads without credentials within the
// bound.
func TestAuthTurnedOn(t *testing.T) {
	const bound = 500 * time.Millisecond
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	p := start(t, etcd, bounded(bound), func(cfg *proxy.Config) { cfg.Leasing.TTL = 2 * time.Second })
	nobody, plain := p.client(""), etcd.Client(0)
	put(t, nobody, "k", "v")
	p.owned(nobody, "k")
	enableAuth(t, plain)
	on := time.Now()
	for {
		asked := time.Now()
		_, err := nobody.Get(within(t), "k")
		if errors.Is(err, rpctypes.ErrUserEmpty) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if asked.Sub(on) > bound {
			t.Fatalf("read %v after authentication was turned on", asked.Sub(on))
		}
	}
	for name, op := range operations("k") {
		refused(t, nobody, name, rpctypes.ErrUserEmpty, op)
	}
	get(t, p.client("root"), "k", "v")

	// The proxy cannot give its keys back any more, but it does not keep them either.
	other := start(t, etcd, asRoot)
	put(t, other.client("root"), "k", "w")
	get(t, p.client("root"), "k", "w")
}

func enableAuth(t *testing.T, plain *clientv3.Client) {
	t.Helper()
	ctx := within(t)
	for _, do := range []func() error{
		func() error { _, err := plain.UserAdd(ctx, "root", "root"); return err },
		func() error { _, err := plain.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := plain.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
}

// With a bound of nothing etcd is asked each time.
func TestNoMemoryWithoutBound(t *testing.T) {
	etcd := guarded(t)
	p := start(t, etcd, asRoot, bounded(0))
	alice := p.client("alice")
	put(t, alice, "d/k", "v")
	for range 5 {
		get(t, alice, "d/k", "v")
	}
	if s := p.KV().Stats(); s.Hits != 0 || s.Entries != 0 {
		t.Errorf("read from memory: %+v", s)
	}
}

// A user's reads are answered from memory when etcd has confirmed the right; what a
// token may not do from memory is right all the same.
func TestTokenReadsFromMemory(t *testing.T) {
	m, opt := metered(t)
	etcd := guarded(t, opt)
	p := start(t, etcd, asRoot)
	alice, eve := p.client("alice"), p.client("eve")
	put(t, alice, "d/k", "v")
	p.owned(alice, "d/k")
	get(t, eve, "d/k", "v") // asks etcd once, as she
	before := m.handled(t, "Range", "Txn")
	for range 100 {
		get(t, alice, "d/k", "v")
		get(t, eve, "d/k", "v")
	}
	if n := m.handled(t, "Range", "Txn") - before; n != 0 {
		t.Errorf("%d requests", n)
	}
	hits := p.KV().Stats().Hits
	if _, err := alice.Txn(within(t)).Then(clientv3.OpGet("d/k")).Commit(); err != nil {
		t.Fatal(err)
	}
	if p.KV().Stats().Hits != hits {
		t.Error("a transaction was answered from memory")
	}
	put(t, alice, "d/k", "w")
	get(t, eve, "d/k", "w")
}

// The proxy's own user needs the rights to the claims and to read the data, no more.
// Without any user it serves, but not from memory.
func TestRightsOfTheProxy(t *testing.T) {
	etcd := guarded(t)
	asEve := func(cfg *proxy.Config) { cfg.Username, cfg.Password = "eve", "eve" }
	p := start(t, etcd, asEve)
	put(t, p.client("alice"), "d/k", "v")
	p.owned(p.client("alice"), "d/k")
	put(t, p.client("bob"), "b/k", "v")
	for range 3 {
		get(t, p.client("bob"), "b/k", "v") // which eve may not read
	}
	refused(t, p.client("eve"), "what eve may not read", rpctypes.ErrPermissionDenied, clientv3.OpGet("b/k"))
	put(t, p.client("alice"), "d/k", "w")

	none := start(t, etcd)
	for range 3 {
		get(t, none.client("alice"), "d/k", "w")
	}
	put(t, none.client("alice"), "d/k", "x")
	get(t, p.client("alice"), "d/k", "x")
	refused(t, none.client(""), "nobody", rpctypes.ErrUserEmpty, clientv3.OpGet("d/k"))
	if n := none.KV().Stats().Hits; n != 0 {
		t.Errorf("%d reads from memory", n)
	}
}

// A deletion of a range takes the rights to the claims of the range, no others, though
// somebody else owns a key in it. Without them it is refused.
func TestRightsOfRangeDeletions(t *testing.T) {
	all, read := clientv3.PermissionType(clientv3.PermReadWrite), clientv3.PermissionType(clientv3.PermRead)
	user := func(name string, rights ...etcdtest.Right) etcdtest.User {
		return etcdtest.User{Name: name, Password: name, Rights: append(rights, etcdtest.May(all, "d/"))}
	}
	etcd := etcdtest.Start(t, etcdtest.QuickTicks(), etcdtest.Auth(
		user("writer", etcdtest.May(all, claims+"d/")), user("lister", etcdtest.May(read, claims+"d/")), user("stranger"),
	))
	p, other := start(t, etcd, asRoot), start(t, etcd, asRoot)
	put(t, p.client("writer"), "d/k", "v")
	p.owned(p.client("writer"), "d/k")
	deletion := clientv3.OpDelete("d/", clientv3.WithPrefix())
	for _, name := range []string{"lister", "stranger"} {
		refused(t, other.client(name), name, rpctypes.ErrPermissionDenied, deletion)
	}
	writer := other.client("writer")
	if r, err := writer.Do(within(t), deletion); err != nil || r.Del().Deleted != 1 {
		t.Errorf("%v, %v", r, err)
	}
	get(t, p.client("writer"), "d/k", "")
	if r, err := other.client("lister").Do(within(t), deletion); err != nil || r.Del().Deleted != 0 {
		t.Errorf("what nobody owns: %v, %v", r, err)
	}
}

// Who has no rights to a key, or is nobody, does not take it from its owner. The one
// exception is the deletion of a range by somebody who may read, and here write, the
// claims, as those are listed before etcd judges the deletion.
func TestOwnersAreNotDisturbed(t *testing.T) {
	etcd := guarded(t)
	p, other := start(t, etcd, asRoot), start(t, etcd, asRoot)
	put(t, p.client("alice"), "d/k", "v")
	p.owned(p.client("alice"), "d/k")
	eventually(t, "the other proxy knows of the claim", func() bool { return len(claimed(t, etcd.Client(0))) == 1 })
	for user, cl := range map[string]*clientv3.Client{"bob": other.client("bob"), "nobody": other.client("")} {
		for name, op := range operations("d/k") {
			if user == "bob" && name == "delete, prefix" {
				continue
			}
			if _, err := cl.Do(within(t), op); err == nil {
				t.Errorf("%s by %s was not refused", name, user)
			}
		}
	}
	if s := p.KV().Stats(); s.RevokesAnswered != 0 || s.Entries != 1 {
		t.Errorf("the owner was asked %d times, and owns %d keys", s.RevokesAnswered, s.Entries)
	}
}

// Users with different rights watch through one proxy, each with their own.
func TestWatchWithTokens(t *testing.T) {
	etcd := guarded(t)
	p := start(t, etcd, asRoot)
	alice, bob := p.client("alice"), p.client("bob")
	wa := alice.Watch(within(t), "d/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if r := <-wa; r.Err() != nil {
		t.Fatal(r.Err())
	}
	wb := bob.Watch(within(t), "b/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if r := <-wb; r.Err() != nil {
		t.Fatal(r.Err())
	}
	if r := <-bob.Watch(within(t), "d/", clientv3.WithPrefix()); r.Err() == nil {
		t.Errorf("bob watches what he may not read: %v", r)
	}
	put(t, alice, "d/k", "1")
	put(t, bob, "b/k", "2")
	if r := <-wa; len(r.Events) != 1 || string(r.Events[0].Kv.Value) != "1" {
		t.Errorf("alice sees %v", r)
	}
	if r := <-wb; len(r.Events) != 1 || string(r.Events[0].Kv.Value) != "2" {
		t.Errorf("bob sees %v", r)
	}
}
