package leasing_test

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// drop opens a KV as NewKV of etcd's package is used.
func (c *cluster) dropIn(name string, opts ...concurrency.SessionOption) (*peer, clientv3.KV) {
	c.t.Helper()
	p := c.client(name)
	kv, _, err := leasing.NewKV(p.cl, claimPrefix, opts...)
	if err != nil {
		c.t.Fatal(err)
	}
	p.KV = kv.(*leasing.KV)
	c.kvs = append(c.kvs, p)
	return p, kv
}

// A lease that was handed in is kept alive, carries no claim, and is never
// revoked.
func TestHandedInLease(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		lease, err := c.root.Grant(t.Context(), 5)
		if err != nil {
			t.Fatal(err)
		}
		alive := func() bool {
			info, err := c.root.TimeToLive(t.Context(), lease.ID, clientv3.WithAttachedKeys())
			if err != nil || len(info.Keys) > 0 {
				t.Errorf("the lease: %v, %v", info, err)
			}
			return info.TTL > 0
		}
		a, _ := c.dropIn("a", concurrency.WithLease(lease.ID), concurrency.WithTTL(10))
		a.own("k")
		for range 30 {
			time.Sleep(time.Second)
			if !alive() || !a.serves("k") {
				t.Fatal("the lease, or what depends on it, is over")
			}
		}
		a.Close()
		if !alive() {
			t.Error("revoked by Close")
		}
		time.Sleep(10 * time.Second)
		if alive() {
			t.Error("kept alive after Close")
		}
	})
}

// When what bounds the life of a KV is over it gives everything back, and is a
// plain client's KV from then on that respects other owners.
func TestLifeOfTheSessionEnds(t *testing.T) {
	for name, end := range map[string]func(c *cluster, a *peer, lease clientv3.LeaseID, cancel func()){
		"lease revoked": func(c *cluster, _ *peer, id clientv3.LeaseID, _ func()) { c.root.Revoke(c.t.Context(), id) },
		"context done":  func(_ *cluster, _ *peer, _ clientv3.LeaseID, cancel func()) { cancel() },
		"lease ran out": func(_ *cluster, a *peer, _ clientv3.LeaseID, _ func()) {
			a.conn.Cut(memetcd.Requests)
			time.Sleep(time.Minute)
			a.conn.Heal()
		},
	} {
		t.Run(name, func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				lease, err := c.root.Grant(t.Context(), 5)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				a, _ := c.dropIn("a", concurrency.WithLease(lease.ID), concurrency.WithContext(ctx))
				b := c.open("b", time.Minute)
				a.put("k", "v")
				a.own("k")
				b.own("foreign")
				end(c, a, lease.ID, cancel)
				time.Sleep(3 * time.Second) // a renewal finds the lease gone
				want(t, "claims, b's own besides", len(c.claims()), 1)
				for range 3 {
					want(t, "cost of a read", a.cost(func() { want(t, "read", a.get("k"), "v") }), "Range=1")
				}
				want(t, "cost of a put", a.cost(func() { a.put("k", "w") }), "Txn=1")
				want(t, "cost of another's put", b.cost(func() { b.put("k", "x") }), "Txn=1")
				want(t, "read", a.get("k"), "x")
				a.put("foreign", "a's")
				want(t, "read by the other", b.get("foreign"), "a's")
				time.Sleep(time.Minute)
				want(t, "cost of a read later", a.cost(func() { a.get("k") }), "Range=1")
				a.Close()
				if _, err := a.Get(t.Context(), "k"); !errors.Is(err, leasing.ErrClosed) {
					t.Errorf("after Close: %v", err)
				}
			})
		})
	}
}

// The context ends the ownership at once, not at the next renewal.
func TestContextEndsOwnershipAtOnce(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		ctx, cancel := context.WithCancel(t.Context())
		a, _ := c.dropIn("a", concurrency.WithContext(ctx))
		a.own("k")
		cancel()
		time.Sleep(2 * trip)
		want(t, "claims", len(c.claims()), 0)
		if a.serves("k") {
			t.Error("still served from memory")
		}
	})
}

// A KV that was opened on a lease that is gone already owns nothing.
func TestHandedInLeaseIsGoneFromTheStart(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, _ := c.dropIn("a", concurrency.WithLease(12345))
		a.put("k", "v")
		time.Sleep(time.Minute)
		want(t, "cost of a read", a.cost(func() { want(t, "read", a.get("k"), "v") }), "Range=1")
		want(t, "claims", len(c.claims()), 0)
	})
}
