package leasing_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// Keys are claimed by the read that makes up Config.ClaimAfter.
func TestClaimAfter(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.openOf("a", leasing.Config{ClaimAfter: 3})
		keys := c.fill("k", 100)
		scan := func() {
			for _, k := range keys {
				a.get(k)
			}
		}
		want(t, "a scan", a.cost(scan), "Range=100")
		want(t, "another", a.cost(scan), "Range=100")
		want(t, "claims", len(c.claims()), 0)
		want(t, "the third", a.cost(scan), "Txn=100")
		want(t, "owned", a.owns(keys...), 100)

		for range 3 {
			a.get("often")
			time.Sleep(5 * time.Second)
		}
		want(t, "read three times in 10 s", a.Owned("often"), true)
		a.get("never")
		time.Sleep(20 * time.Second)
		a.get("never")
		a.get("never")
		want(t, "read three times, but not within the time", a.Owned("never"), false)
		a.get("never")
		want(t, "read three times", a.Owned("never"), true)

		a.release(keys...)
		a.prefetch(100, "k", clientv3.WithPrefix()) // which counts nothing
		want(t, "prefetched", a.owns(keys...), 100)
	})
}

// Reads that could not have claimed the key do not count.
func TestClaimAfterCountsWhatCouldHaveClaimed(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.openOf("a", leasing.Config{ClaimAfter: 2}), c.open("b", time.Minute)
		b.own("k")
		time.Sleep(5 * trip)
		for range 5 {
			a.get("k")
		}
		b.release("k")
		time.Sleep(5 * trip)
		want(t, "first read since", a.cost(func() { a.get("k") }), "Range=1")
		want(t, "second", a.cost(func() { a.get("k") }), "Txn=1")
	})
}

func TestClaimAfterIsChecked(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		_, err := leasing.New(t.Context(), c.root, leasing.Config{Prefix: claimPrefix, ClaimAfter: -1})
		if err == nil || !strings.Contains(err.Error(), "ClaimAfter is -1") {
			t.Error(err)
		}
		for _, n := range []int{0, 1} {
			a := c.openOf(fmt.Sprint("a", n), leasing.Config{ClaimAfter: n})
			a.own(fmt.Sprint("k", n))
		}
	})
}
