package leasing_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// While etcd is out of space, puts fail with its error; what a failed put may
// have done is not in the cache. Deletions work, and are the way out.
func TestNoSpace(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		for _, key := range []string{"unclaimed", "owned", "stays", "asked", "foreign"} {
			a.put(key, "v")
		}
		a.own("owned", "stays")
		b.own("asked", "foreign")
		b.conn.DelayWatch(time.Second)
		asking := make(chan error)
		go func() {
			_, err := a.Delete(within(t, time.Minute), "asked")
			asking <- err
		}()
		time.Sleep(5 * trip)
		c.srv.SetNoSpace(true)

		want(t, "cost of a put", a.cost(func() {
			if _, err := a.Put(t.Context(), "stays", "new"); !errors.Is(err, rpctypes.ErrNoSpace) {
				t.Errorf("put of an owned key: %v", err)
			}
			time.Sleep(10 * trip)
		}), "Txn=2") // an error that may come after the write: the key is yielded
		want(t, "read after a put that failed", a.get("stays"), "v")
		if _, err := a.Put(t.Context(), "unclaimed", "new"); !errors.Is(err, rpctypes.ErrNoSpace) {
			t.Errorf("put of an unclaimed key: %v", err)
		}
		if _, err := a.Put(t.Context(), "foreign", "new"); !errors.Is(err, rpctypes.ErrNoSpace) {
			t.Errorf("put of another's key: %v", err)
		}
		for _, key := range []string{"unclaimed", "owned"} {
			if resp, err := a.Delete(t.Context(), key); err != nil || resp.Deleted != 1 {
				t.Errorf("delete of %s key: %v, %v", key, resp, err)
			}
			want(t, "read", a.get(key), "-")
		}
		if err := <-asking; err != nil { // its owner yields
			t.Errorf("delete of a key that was asked for: %v", err)
		}
		want(t, "read by its former owner", b.get("asked"), "-")
		if resp, err := a.Delete(t.Context(), "stays", clientv3.WithRange("t")); err != nil || resp.Deleted != 1 {
			t.Errorf("delete of a range: %v, %v", resp, err)
		}
		// A key of another's cannot be asked back: that takes a put.
		d := took(func() {
			if _, err := a.Delete(within(t, time.Minute), "foreign"); !errors.Is(err, rpctypes.ErrNoSpace) {
				t.Errorf("delete of another's key: %v", err)
			}
		})
		if d > 10*trip {
			t.Errorf("it failed after %v only", d)
		}
		c.srv.SetNoSpace(false)
		time.Sleep(20 * time.Second)
		a.put("stays", "again")
		a.put("foreign", "again")
		want(t, "read", a.get("stays"), "again")
		a.own("stays")
		want(t, "read", b.get("foreign"), "again")
	})
}

// A client without rights on the claim prefix reads through; its writes are
// refused at once, because they cannot be guarded.
func TestClaimPrefixIsDenied(t *testing.T) {
	for name, deny := range map[string]func(key, end []byte, write bool) bool{
		"entirely": func(key, _ []byte, _ bool) bool { return strings.HasPrefix(string(key), claimPrefix) },
		"writes":   func(key, _ []byte, write bool) bool { return write && strings.HasPrefix(string(key), claimPrefix) },
	} {
		t.Run(name, func(t *testing.T) {
			onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
				c.root.Put(t.Context(), "k", "v")
				b := c.open("b", time.Minute)
				b.own("owned")
				a := c.client("a")
				a.conn.Deny(deny)
				a.start(time.Minute)
				defer a.Close()
				for range 3 {
					want(t, "read", a.get("k"), "v")
				}
				want(t, "cost of a read", a.cost(func() { a.get("k") }), "Range=1")
				if _, err := a.Put(t.Context(), "owned", "w"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
					t.Errorf("put: %v", err) // for once, it may ask for the key first
				}
				for _, key := range []string{"k", "owned"} {
					var d time.Duration
					n := a.cost(func() {
						d = took(func() {
							if _, err := a.Put(t.Context(), key, "w"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
								t.Errorf("put of %q: %v", key, err)
							}
						})
					})
					want(t, "cost of a put", n, "Txn=1")
					want(t, "duration of a put", d, 2*trip)
				}
				for range 100 { // however often it is tried
					if _, err := a.Put(t.Context(), "k", "w"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
						t.Fatalf("put: %v", err)
					}
				}
				want(t, "read", a.get("k"), "v")
				time.Sleep(time.Minute)
				want(t, "claims", len(c.claims()), 1)
			})
		})
	}
}

// A key that the client may not read is claimed together with others, which
// do not suffer for it.
func TestOneKeyIsDenied(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		a.conn.Deny(func(key, _ []byte, _ bool) bool { return string(key) == "secret" })
		keys := []string{"k1", "k2", "secret", "k3", "k4"}
		together(len(keys), func(i int) {
			_, err := a.Get(within(t, time.Minute), keys[i])
			if keys[i] == "secret" != errors.Is(err, rpctypes.ErrPermissionDenied) || keys[i] != "secret" && err != nil {
				t.Errorf("get %q: %v", keys[i], err)
			}
		})
		for _, key := range keys {
			want(t, "owned: "+key, a.serves(key), key != "secret")
		}
		_, err := a.Put(t.Context(), "secret", "v")
		if !errors.Is(err, rpctypes.ErrPermissionDenied) {
			t.Errorf("put: %v", err)
		}
		for range 5 { // not claimed over and over again
			n := a.cost(func() { a.Get(t.Context(), "secret") })
			want(t, "cost of reading it", n, "Range=1")
		}
		// Whoever may write the key is not held up.
		if d := took(func() { b.put("secret", "v") }); d > 2*trip {
			t.Errorf("another's put took %v", d)
		}
	})
}

// Streams and compactions pass on what etcd says.
func TestErrorsOfEtcdPassThrough(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.put("k", "v")
		rev := c.srv.Revision()
		a.put("k", "w")
		if _, err := a.Compact(t.Context(), c.srv.Revision()); err != nil {
			t.Fatal(err)
		}
		for want, err := range map[error]error{
			rpctypes.ErrCompacted:     second(a.Get(t.Context(), "k", clientv3.WithRev(rev))),
			rpctypes.ErrFutureRev:     second(a.Get(t.Context(), "k", clientv3.WithRev(rev+100))),
			rpctypes.ErrEmptyKey:      second(a.Put(t.Context(), "", "v")),
			rpctypes.ErrDuplicateKey:  second(a.Txn(t.Context()).Then(clientv3.OpPut("k", "v"), clientv3.OpPut("k", "v")).Commit()),
			rpctypes.ErrLeaseNotFound: second(a.Put(t.Context(), "k", "v", clientv3.WithLease(12345))),
		} {
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		a.own("k")
		want(t, "read", a.get("k"), "w")
		stream, err := a.GetStream(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for r := range stream {
			if err := r.Err(); err != nil {
				t.Fatal(err)
			}
			for _, kv := range r.Kvs {
				got += fmt.Sprintf("%s=%s ", kv.Key, kv.Value)
			}
		}
		want(t, "streamed", got, "k=w ")
	})
}
