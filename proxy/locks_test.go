package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/proxy"
)

// keysUnder are the keys under a prefix in etcd, the oldest first.
func keysUnder(t *testing.T, plain *clientv3.Client, prefix string) (keys []string) {
	t.Helper()
	r, err := plain.Get(within(t), prefix, append(clientv3.WithFirstCreate(), clientv3.WithKeysOnly(), clientv3.WithLimit(0))...)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range r.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

// ended returns a function that waits until n calls of a method have ended in the proxy,
// which may be after their callers have left.
func (s *served) ended(t *testing.T, method string) func(n int) {
	pages := httptest.NewServer(s.Handler(nil))
	t.Cleanup(pages.Close)
	return func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d calls of %s have ended", n, method), func() (ok bool) {
			_, metrics := page(t, pages.URL+"/metrics")
			sum := 0
			for line := range strings.Lines(metrics) {
				if strings.HasPrefix(line, "grpc_server_handled_total{") && strings.Contains(line, `grpc_method="`+method+`"`) {
					var v int
					fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v)
					sum += v
				}
			}
			return sum >= n
		})
	}
}

// withdraw takes alice's right to d/ away, and waits until etcd refuses her a key.
func withdraw(t *testing.T, root, alice *clientv3.Client, key string) {
	t.Helper()
	if _, err := root.RoleRevokePermission(within(t), "alice", "d/", clientv3.GetPrefixRangeEnd("d/")); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Delete(within(t), key); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Fatalf("alice deletes: %v", err)
	}
}

// queue is a call that waits in a queue.
type queue struct {
	cancel context.CancelFunc
	done   chan error
}

func inQueue(t *testing.T, call func(context.Context) error) queue {
	ctx, cancel := context.WithCancel(within(t))
	q := queue{cancel, make(chan error, 1)}
	go func() { q.done <- call(ctx) }()
	return q
}

func (q queue) leave(t *testing.T) {
	t.Helper()
	q.cancel()
	if err := <-q.done; err == nil {
		t.Error("a call that was given up has succeeded")
	}
}

// The key of a caller who leaves a queue is deleted under the caller's own rights.
func TestCleanUpIsTheCallers(t *testing.T) {
	for _, method := range []string{"Lock", "Campaign"} {
		for _, withdrawn := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/withdrawn=%v", method, withdrawn), func(t *testing.T) {
				etcd := guarded(t)
				p := start(t, etcd, asRoot)
				root, alice := etcd.Client(0), p.client("alice")
				ended := p.ended(t, method)
				call := waiting(t, alice, method, "d/queue")
				if err := call(within(t)); err != nil {
					t.Fatal(err)
				}
				q := inQueue(t, call)
				eventually(t, "the second waits", func() bool { return p.KV().Stats().Writes == 2 })
				want := 1
				if withdrawn {
					withdraw(t, root, alice, keysUnder(t, root, "d/queue/")[1])
					want = 2
				}
				q.leave(t)
				ended(2)
				if keys := keysUnder(t, root, "d/queue/"); len(keys) != want {
					t.Errorf("in the queue: %q, want %d", keys, want)
				}
			})
		}
	}
}

// waiting returns a call that waits in a queue unless it is the first, each time with a
// new lease.
func waiting(t *testing.T, cl *clientv3.Client, method, name string) func(context.Context) error {
	locks, elections := v3lockpb.NewLockClient(cl.ActiveConnection()), v3electionpb.NewElectionClient(cl.ActiveConnection())
	return func(ctx context.Context) error {
		l, err := cl.Grant(ctx, 60)
		if err != nil {
			return err
		}
		if method == "Lock" {
			_, err = locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte(name), Lease: int64(l.ID)})
		} else {
			_, err = elections.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte(name), Lease: int64(l.ID)})
		}
		return err
	}
}

// A clean-up that waits for somebody who does not answer ends with the bound of Stop.
func TestCleanUpDoesNotHoldUpStop(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	p := start(t, etcd)
	plain, call := etcd.Client(0), waiting(t, p.client(""), "Lock", "lock")
	if err := call(within(t)); err != nil {
		t.Fatal(err)
	}
	q := inQueue(t, call)
	eventually(t, "the second waits", func() bool { return p.KV().Stats().Writes == 2 })
	l, err := plain.Grant(within(t), 3600)
	if err != nil {
		t.Fatal(err)
	}
	claim := claims + keysUnder(t, plain, "lock/")[1]
	if _, err := plain.Put(within(t), claim, "", clientv3.WithLease(l.ID)); err != nil {
		t.Fatal(err)
	}
	q.leave(t)
	eventually(t, "the clean-up asks for the key", func() bool {
		r, err := plain.Get(within(t), claim)
		return err == nil && string(r.Kvs[0].Value) == "REVOKE"
	})
	stopped := make(chan struct{})
	go func() { p.Stop(10 * time.Millisecond); close(stopped) }()
	select {
	case <-stopped:
	case <-within(t).Done():
		t.Fatal("Stop has not returned")
	}
}

// A clean-up is sent once, even if the leave of callers without a token lapses
// meanwhile: a second one could delete what was written after the first.
func TestCleanUpIsAppliedOnce(t *testing.T) {
	member, metrics := metered(t)
	etcd := etcdtest.Start(t, etcdtest.QuickTicks(), metrics)
	relay := etcd.Relay(0)
	p := start(t, etcd, bounded(200*time.Millisecond), func(cfg *proxy.Config) { cfg.Endpoints = []string{relay.URL()} })
	plain, cl := etcd.Client(0), p.client("")
	ended, call := p.ended(t, "Lock"), waiting(t, cl, "Lock", "lock")
	if err := call(within(t)); err != nil {
		t.Fatal(err)
	}
	q := inQueue(t, call)
	eventually(t, "the second waits", func() bool { return p.KV().Stats().Writes == 2 })
	put(t, cl, "other", "v")
	p.owned(cl, "other") // callers without a token have leave
	before := member.handled(t, "DeleteRange", "Txn")
	relay.Delay(300 * time.Millisecond)
	q.leave(t)
	ended(2)
	relay.Delay(0)
	if n := member.handled(t, "DeleteRange", "Txn") - before; n != 1 || len(keysUnder(t, plain, "lock/")) != 1 {
		t.Errorf("the clean-up was sent %d times; in the queue: %q", n, keysUnder(t, plain, "lock/"))
	}
}
