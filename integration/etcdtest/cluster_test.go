package etcdtest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

func TestMembersKeepDataWhileStopped(t *testing.T) {
	etcd := etcdtest.Start(t)
	cli := etcd.Client(0)
	put(t, cli, "k", "v")
	begin := time.Now()
	etcd.Stop(0)
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("a stop with a client took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := cli.Get(ctx, "k"); err == nil {
		t.Error("a stopped member has answered")
	}
	etcd.Restart(0)
	if got := get(t, cli, "k"); got != "v" {
		t.Errorf("after the restart the value is %q", got)
	}
}

func TestLeadership(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Members(3), etcdtest.QuickTicks())
	if etcd.Size() != 3 || len(etcd.Endpoints()) != 3 {
		t.Fatalf("%d members at %v", etcd.Size(), etcd.Endpoints())
	}
	first := etcd.Leader()
	second := (first + 1) % 3
	etcd.MoveLeader(second)
	if got := etcd.Leader(); got != second {
		t.Fatalf("member %d leads after a move from %d to %d", got, first, second)
	}
	cli := etcd.Client(first)
	put(t, cli, "k", "1")

	etcd.Isolate(second)
	eventually(t, "the others have a leader of their own", func() bool { return etcd.Leader() != second })
	putAtLast(t, cli, "k", "2")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if resp, err := etcd.Client(second).Get(ctx, "k"); err == nil {
		t.Errorf("the isolated member has answered %v", resp.Kvs)
	}
	etcd.Rejoin(second)
	if got := get(t, etcd.Client(second), "k"); got != "2" {
		t.Errorf("after it rejoined, the member says %q", got)
	}

	leader := etcd.Leader()
	etcd.Kill(leader)
	other := (leader + 1) % 3
	putAtLast(t, etcd.Client(other), "k", "3")
	etcd.Restart(leader)
	if got := get(t, etcd.Client(leader), "k"); got != "3" {
		t.Errorf("after its restart, the member says %q", got)
	}
}

func TestTLSAndAuth(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.TLS(), etcdtest.Auth(etcdtest.User{
		Name: "ann", Password: "secret",
		Rights: []etcdtest.Right{
			etcdtest.May(clientv3.PermissionType(clientv3.PermReadWrite), "a/"),
			{Key: "b", Type: clientv3.PermissionType(clientv3.PermRead)},
		},
	}))
	if !strings.HasPrefix(etcd.Endpoint(0), "https://") {
		t.Errorf("the endpoint is %s", etcd.Endpoint(0))
	}
	root := etcd.Client(0)
	put(t, root, "b", "1")
	ann := etcd.ClientVia(etcd.Relay(0), etcdtest.As("ann", "secret"))
	put(t, ann, "a/k", "1")
	if got := get(t, ann, "b"); got != "1" {
		t.Errorf("ann reads %q", got)
	}
	if _, err := ann.Put(t.Context(), "b", "2"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("ann writes b: %v", err)
	}
	if _, err := etcd.NewClient(etcd.Endpoints(), etcdtest.As("ann", "wrong")); err == nil {
		t.Error("a wrong password will do")
	}
	etcd.Stop(0)
	etcd.Restart(0)
	put(t, ann, "a/k", "2")
}

func TestNoSpace(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Quota(1<<20))
	cli := etcd.Client(0)
	put(t, cli, "k", "v")
	etcd.SetNoSpace(true)
	if _, err := cli.Put(t.Context(), "k", "v"); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("a put with the alarm on: %v", err)
	}
	etcd.SetNoSpace(false)
	put(t, cli, "k", "v")

	// The alarm that etcd itself raises.
	var err error
	for i := 0; i < 100 && err == nil; i++ {
		_, err = cli.Put(t.Context(), "large", strings.Repeat("x", 64<<10))
	}
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("puts beyond the quota: %v", err)
	}
}

func TestEmbedOption(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Fsync(), etcdtest.Embed(func(cfg *embed.Config) { cfg.MaxTxnOps = 2 }))
	cli := etcd.Client(0)
	get := clientv3.OpGet("k")
	if _, err := cli.Txn(t.Context()).Then(get, get).Commit(); err != nil {
		t.Error(err)
	}
	if _, err := cli.Txn(t.Context()).Then(get, get, get).Commit(); !errors.Is(err, rpctypes.ErrTooManyOps) {
		t.Errorf("three operations: %v", err)
	}
}

func TestLaunch(t *testing.T) {
	etcd, err := etcdtest.Launch(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	cli, err := etcd.NewClient(etcd.Endpoints())
	if err != nil {
		t.Fatal(err)
	}
	put(t, cli, "k", "v")
	if err := etcd.TryRestart(0); err == nil {
		t.Error("a running member has been started again")
	}
	etcd.Close()
	if _, err := etcd.NewClient(etcd.Endpoints()); err == nil {
		t.Error("a closed cluster makes clients")
	}
}

func TestCounter(t *testing.T) {
	etcd := etcdtest.Start(t)
	var n etcdtest.Counter
	cli := etcd.Client(0, n.Option())
	put(t, cli, "k", "v")
	get(t, cli, "k")
	get(t, cli, "k")
	if _, err := cli.Txn(t.Context()).Commit(); err != nil {
		t.Fatal(err)
	}
	lease, err := cli.Grant(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.KeepAliveOnce(t.Context(), lease.ID); err != nil {
		t.Fatal(err)
	}
	if got, want := n.String(), "LeaseGrant=1 LeaseKeepAlive=1 Put=1 Range=2 Txn=1"; got != want {
		t.Errorf("counted %q, not %q", got, want)
	}
	if n.KV() != 4 || n.Of("Range", "Put") != 3 {
		t.Errorf("%d requests of the KV, %d of Range and Put", n.KV(), n.Of("Range", "Put"))
	}
	if n.Last("Range", "Put").IsZero() || n.Last("Put").After(n.Last("Range")) || !n.Last("Compact").IsZero() {
		t.Errorf("the last put was at %v, the last get at %v", n.Last("Put"), n.Last("Range"))
	}
	if n.Reset(); n.KV() != 0 {
		t.Errorf("%d requests after a reset", n.KV())
	}
}

func put(t *testing.T, cli clientv3.KV, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := cli.Put(ctx, key, value); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// putAtLast puts until it succeeds, as etcd refuses puts during an election.
func putAtLast(t *testing.T, cli clientv3.KV, key, value string) {
	t.Helper()
	eventually(t, "a put succeeds", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := cli.Put(ctx, key, value)
		return err == nil
	})
}

func get(t *testing.T, cli clientv3.KV, key string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := cli.Get(ctx, key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}
