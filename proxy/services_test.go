package proxy_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/proxy"
)

func inNamespace(cfg *proxy.Config) { cfg.Namespace = "app/" }

// A watch shows what a client may call its own, with progress, previous values and
// history.
func TestWatch(t *testing.T) {
	for _, change := range []func(*proxy.Config){func(*proxy.Config) {}, inNamespace} {
		etcd := etcdtest.Start(t, etcdtest.QuickTicks())
		p := start(t, etcd, change)
		cl := p.client("")
		put(t, cl, "a", "0")
		w := cl.Watch(within(t), "", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(1), clientv3.WithFilterPut())
		put(t, cl, "a", "1")
		put(t, etcd.Client(0), "app0", "outside of the namespace app/")
		if _, err := cl.Delete(within(t), "a"); err != nil {
			t.Fatal(err)
		}
		r := <-w
		if len(r.Events) != 1 || r.Events[0].Type != clientv3.EventTypeDelete || string(r.Events[0].Kv.Key) != "a" ||
			string(r.Events[0].PrevKv.Key) != "a" || string(r.Events[0].PrevKv.Value) != "1" {
			t.Errorf("watched: %v", r)
		}
		eventually(t, "etcd tells of progress", func() bool {
			if err := cl.RequestProgress(within(t)); err != nil {
				t.Fatal(err)
			}
			select {
			case r := <-w:
				return r.IsProgressNotify()
			case <-time.After(100 * time.Millisecond):
				return false
			}
		})
		if r := <-cl.Watch(within(t), "a", clientv3.WithRev(-1)); r.Err() == nil {
			t.Errorf("watch of a negative revision: %v", r)
		}
	}
}

// A library behind the proxy is a client like others: it owns keys through it.
func TestLibraryBehindTheProxy(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	p := start(t, etcd, inNamespace)
	kv, err := leasing.New(within(t), p.client(""), leasing.Config{Prefix: "inner/"})
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	put(t, kv, "k", "v")
	eventually(t, "the library owns the key", func() bool {
		get(t, kv, "k", "v")
		return kv.Owned("k")
	})
}

func TestLease(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	p := start(t, etcd, inNamespace)
	cl := p.client("")
	l, err := cl.Grant(within(t), 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Put(within(t), "k", "v", clientv3.WithLease(l.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Client(0).Put(within(t), "elsewhere", "v", clientv3.WithLease(l.ID)); err != nil {
		t.Fatal(err)
	}
	left, err := cl.TimeToLive(within(t), l.ID, clientv3.WithAttachedKeys())
	if err != nil || left.GrantedTTL != 60 || len(left.Keys) != 1 || string(left.Keys[0]) != "k" {
		t.Errorf("time to live: %v, %v", left, err)
	}
	if r, err := cl.KeepAliveOnce(within(t), l.ID); err != nil || r.TTL != 60 {
		t.Errorf("kept alive once: %v, %v", r, err)
	}
	kept, err := cl.KeepAlive(within(t), l.ID)
	if err != nil {
		t.Fatal(err)
	}
	if r := <-kept; r == nil || r.TTL != 60 {
		t.Errorf("kept alive: %v", r)
	}
	all, err := cl.Leases(within(t))
	if err != nil || !slices.Contains(all.Leases, clientv3.LeaseStatus{ID: l.ID}) {
		t.Errorf("leases: %v, %v", all, err)
	}
	get(t, cl, "k", "v")
	if _, err := cl.Revoke(within(t), l.ID); err != nil {
		t.Fatal(err)
	}
	get(t, cl, "k", "")
	if _, err := cl.KeepAliveOnce(within(t), l.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("kept alive though it is over: %v", err)
	}
}

// Locks and elections by etcd's services are in the namespace, and what they write
// keeps to the protocol: who has read before that a key is not there sees it.
func TestLockAndElection(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	a, b := start(t, etcd, inNamespace), start(t, etcd, inNamespace)
	ca := a.client("")
	s, err := concurrency.NewSession(ca)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	locks := v3lockpb.NewLockClient(b.conn())
	r, err := locks.Lock(within(t), &v3lockpb.LockRequest{Name: []byte("lock"), Lease: int64(s.Lease())})
	if err != nil || !strings.HasPrefix(string(r.Key), "lock/") {
		t.Fatalf("locked: %v, %v", r, err)
	}
	resp, err := etcd.Client(0).Get(within(t), "app/"+string(r.Key))
	if err != nil || len(resp.Kvs) != 1 {
		t.Errorf("the lock in etcd: %v, %v", resp, err)
	}
	brief, cancel := context.WithTimeout(within(t), 300*time.Millisecond)
	defer cancel()
	if _, err := locks.Lock(brief, &v3lockpb.LockRequest{Name: []byte("lock")}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("locked twice: %v", err)
	}
	if _, err := locks.Unlock(within(t), &v3lockpb.UnlockRequest{Key: r.Key}); err != nil {
		t.Fatal(err)
	}
	a.owned(ca, string(r.Key)) // as not being there
	if _, err := locks.Lock(within(t), &v3lockpb.LockRequest{Name: []byte("lock"), Lease: int64(s.Lease())}); err != nil {
		t.Fatal(err)
	}
	if resp, err := ca.Get(within(t), string(r.Key)); err != nil || len(resp.Kvs) != 1 {
		t.Errorf("the lock as read before: %v, %v", resp, err)
	}

	elections := v3electionpb.NewElectionClient(b.conn())
	won, err := elections.Campaign(within(t), &v3electionpb.CampaignRequest{Name: []byte("post"), Lease: int64(s.Lease()), Value: []byte("me")})
	if err != nil || !strings.HasPrefix(string(won.Leader.Key), "post/") {
		t.Fatalf("elected: %v, %v", won, err)
	}
	led, err := elections.Leader(within(t), &v3electionpb.LeaderRequest{Name: []byte("post")})
	if err != nil || string(led.Kv.Key) != string(won.Leader.Key) || string(led.Kv.Value) != "me" {
		t.Errorf("leader: %v, %v", led, err)
	}
	seen, err := elections.Observe(within(t), &v3electionpb.LeaderRequest{Name: []byte("post")})
	if err != nil {
		t.Fatal(err)
	}
	if o, err := seen.Recv(); err != nil || string(o.Kv.Value) != "me" {
		t.Errorf("observed: %v, %v", o, err)
	}
	if _, err := elections.Resign(within(t), &v3electionpb.ResignRequest{Leader: won.Leader}); err != nil {
		t.Error(err)
	}
}

// Two users lock through one proxy, each under their own rights, also while they wait.
func TestLockWithTokens(t *testing.T) {
	etcd := guarded(t)
	p := start(t, etcd, asRoot)
	alice, bob := v3lockpb.NewLockClient(p.client("alice").ActiveConnection()), v3lockpb.NewLockClient(p.client("bob").ActiveConnection())
	lock := func(c v3lockpb.LockClient, name string) ([]byte, error) {
		r, err := c.Lock(within(t), &v3lockpb.LockRequest{Name: []byte(name)})
		return r.GetKey(), err
	}
	if _, err := lock(bob, "d/lock"); !errors.Is(rpctypes.Error(err), rpctypes.ErrPermissionDenied) {
		t.Errorf("bob locks what is not his: %v", err)
	}
	users := map[string]v3lockpb.LockClient{"d/lock": alice, "b/lock": bob}
	held, done := map[string][]byte{}, make(chan error)
	for name, user := range users {
		key, err := lock(user, name)
		if err != nil {
			t.Fatal(err)
		}
		held[name] = key
		go func() {
			_, err := lock(user, name)
			done <- err
		}()
	}
	eventually(t, "both wait", func() bool {
		n := int64(0)
		for name := range users {
			resp, err := etcd.Client(0).Get(within(t), name+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err != nil {
				t.Fatal(err)
			}
			n += resp.Count
		}
		return n == 4
	})
	select { // a watch that is refused ends the wait at once
	case err := <-done:
		t.Fatalf("locked twice: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	for name, user := range users {
		if _, err := user.Unlock(within(t), &v3lockpb.UnlockRequest{Key: held[name]}); err != nil {
			t.Fatal(err)
		}
	}
	for range users {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Clients that ask for endpoints are kept here if that is configured.
func TestMembers(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	r, err := start(t, etcd).client("").MemberList(within(t))
	if err != nil || len(r.Members) != 1 || r.Members[0].ClientURLs[0] != etcd.Endpoint(0) {
		t.Errorf("members: %v, %v", r, err)
	}
	p := start(t, etcd, func(cfg *proxy.Config) { cfg.AdvertiseClientURL = "http://proxy:1" })
	if r, err = p.client("").MemberList(within(t)); err != nil || len(r.Members) != 1 || r.Members[0].ClientURLs[0] != "http://proxy:1" {
		t.Errorf("members: %v, %v", r, err)
	}
	if _, err := p.client("").MemberPromote(within(t), 7); err == nil || strings.Contains(err.Error(), "not implemented") {
		t.Errorf("promotion of a member that there is not: %v", err)
	}
}

// Who asks in gRPC's own way is told that the proxy serves.
func TestHealthService(t *testing.T) {
	p := start(t, etcdtest.Start(t, etcdtest.QuickTicks()))
	health := healthpb.NewHealthClient(p.conn())
	if r, err := health.Check(within(t), &healthpb.HealthCheckRequest{}); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", r, err)
	}
}

// Stop hands over what is owned, and ends streams. It may be called again.
func TestStop(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	p := start(t, etcd)
	cl := p.client("")
	put(t, cl, "k", "v")
	p.owned(cl, "k")
	<-cl.Watch(within(t), "k", clientv3.WithCreatedNotify())
	p.Stop(time.Hour)
	p.Stop(0)
	if keys := claimed(t, etcd.Client(0)); len(keys) != 0 {
		t.Errorf("claimed after the end: %q", keys)
	}
}

// A call that is under way when the proxy is stopped is answered.
func TestStopLetsCallsFinish(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	relay := etcd.Relay(0)
	p := start(t, etcd, func(cfg *proxy.Config) { cfg.Endpoints = []string{relay.URL()} })
	cl, pages := p.client(""), httptest.NewServer(p.Handler(nil))
	defer pages.Close()
	relay.Delay(200 * time.Millisecond)
	done := make(chan error, 1)
	go func() {
		_, err := cl.Put(within(t), "k", "v")
		done <- err
	}()
	eventually(t, "the put is under way", func() bool {
		_, metrics := page(t, pages.URL+"/metrics")
		return strings.Contains(metrics, `grpc_server_started_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1`)
	})
	p.Stop(time.Hour)
	if err := <-done; err != nil {
		t.Error(err)
	}
	get(t, etcd.Client(0), "k", "v")
}

// A call that takes longer than the bound is given up.
func TestStopIsBounded(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	p := start(t, etcd)
	locks := v3lockpb.NewLockClient(p.conn())
	if _, err := locks.Lock(within(t), &v3lockpb.LockRequest{Name: []byte("lock")}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { // it would wait for a minute, until the lease of the lock is over
		_, err := locks.Lock(within(t), &v3lockpb.LockRequest{Name: []byte("lock")})
		done <- err
	}()
	eventually(t, "the second is in the queue", func() bool {
		resp, err := etcd.Client(0).Get(within(t), "lock/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && resp.Count == 2
	})
	p.Stop(10 * time.Millisecond)
	if err := <-done; err == nil {
		t.Error("locked twice")
	}
}
