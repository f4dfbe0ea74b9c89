package integration_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// fltOwned waits until every key of h is claimed, as a process does that reads
// them all, and returns the grants.
func fltOwned(t *testing.T, plain clientv3.KV, h *fltHistory) map[string]int64 {
	t.Helper()
	grants := make(map[string]int64)
	for _, key := range h.keys {
		fltUntil(t, key+" is owned", func() bool {
			claim := fltClaim(t, plain, key)
			if claim == nil || len(claim.Value) > 0 {
				return false
			}
			grants[key] = claim.CreateRevision
			return true
		})
	}
	return grants
}

// I1, I2. An owner whose process is frozen in the middle of reading,
// and wakes when others have written its keys, does not serve what it had: not
// even the first read. One that wakes before that gives its keys back.
func TestFrozenOwner(t *testing.T) {
	if !fltCanFreeze {
		t.Skip("this system has no SIGSTOP")
	}
	t.Parallel()
	const ttl = 2 * time.Second // it serves for 1.5 s after a renewal
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	h := fltRecord(t, plain)
	owner := fltStartOwner(t, h, fltOrders{Name: "owner", Endpoint: etcd.Endpoint(0), TTL: ttl, Burst: 100})
	writer := fltOpen(t, etcd.Client(0), ttl)
	freezes := []time.Duration{ttl / 4, 3 * ttl / 4, ttl, 9 * ttl / 8, 3 * ttl / 2}
	for i := 0; i < len(freezes) || time.Since(h.began) < 3*(*fltDuration); i++ {
		d := freezes[i%len(freezes)]
		fltOwned(t, plain, h)
		time.Sleep(rand.N(100 * time.Millisecond)) // it reads from memory
		owner.freeze()
		frozen := time.Now()
		var written sync.WaitGroup
		revs := make([]int64, len(h.keys))
		for j, key := range h.keys {
			written.Go(func() {
				var err error
				if revs[j], err = h.put(fltContext(t), "writer", writer, key, fmt.Sprint(key, "-", i)); err != nil {
					t.Error(err)
				}
			})
		}
		if d > ttl {
			written.Wait() // when the owner's lease has expired, whether it wakes or not
		}
		time.Sleep(time.Until(frozen.Add(d - ttl/16 + rand.N(ttl/8))))
		owner.thaw()
		written.Wait()
		for j, key := range h.keys {
			fltUntil(t, "the owner sees the new "+key, func() bool { return owner.saw(key).Header >= revs[j] })
		}
	}
	owner.end()
	h.check(plain, map[string]clientv3.KV{"writer": writer, "plain": plain})
	t.Logf("%d reads of the owner needed no request", owner.local())
	if owner.local() < 1000 {
		t.Error("too few reads came from memory to prove anything")
	}
}

// I2. An owner that wakes before its deadline has lost nothing.
func TestFrozenBriefly(t *testing.T) {
	if !fltCanFreeze {
		t.Skip("this system has no SIGSTOP")
	}
	t.Parallel()
	const ttl = 5 * time.Second // it is renewed after 1.3 s, and serves for 4 s
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	h := fltRecord(t, plain)
	owner := fltStartOwner(t, h, fltOrders{Name: "owner", Endpoint: etcd.Endpoint(0), TTL: ttl, Burst: 100})
	before := fltOwned(t, plain, h)
	owner.freeze()
	time.Sleep(ttl / 5)
	owner.thaw()
	time.Sleep(ttl) // it would not have the keys any more, had it not renewed its lease
	for key, grant := range fltOwned(t, plain, h) {
		if grant != before[key] {
			t.Errorf("%q is owned under %d, after %d", key, grant, before[key])
		}
	}
	writer := fltOpen(t, etcd.Client(0), ttl)
	for _, key := range h.keys {
		rev, err := h.put(fltContext(t), "writer", writer, key, key)
		if err != nil {
			t.Fatal(err)
		}
		fltUntil(t, "the owner sees the new "+key, func() bool { return owner.saw(key).Header >= rev })
	}
	owner.end()
	h.check(plain, map[string]clientv3.KV{"writer": writer, "plain": plain})
}
