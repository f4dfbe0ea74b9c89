package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

func outageRows() []*row {
	return []*row{
		{name: "A cut-off owner goes on reading from memory", leased: true, check: checkCutOffReads},
		{name: "A cut-off owner reads nothing that another has overwritten", check: checkCutOffStale},
		{name: "A renewal that is answered late does not lengthen a lease", check: checkLateRenewal, limit: 45 * time.Second},
		{name: "A writer does not wait for an owner that has died", check: checkDeadOwner,
			known: "it waits until the owner's leases have expired, at most the TTL"},
		{name: "With the server away, calls end with their contexts", check: checkContextsEnd},
		{name: "When the server is back after longer than the TTL, all is well again", check: checkServerBack},
	}
}

// serves reads k as long as that is answered without etcd, and returns when
// the last answer came.
func (e *env) serves(a *party, want string) (last time.Time) {
	for {
		err := e.tries(50*time.Millisecond, func(ctx context.Context) error {
			resp, err := a.Get(ctx, "k")
			if err == nil && (len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != want) {
				err = errors.New("another value")
			}
			return err
		})
		if err != nil {
			return last
		}
		last = time.Now()
		e.pause(time.Millisecond)
	}
}

func checkCutOffReads(e *env) {
	const ttl = 4 * time.Second
	relay := e.etcd.Relay(0)
	a := e.behind(relay, ttl)
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	relay.Cut()
	cut := time.Now()
	served := max(0, e.serves(a, "1").Sub(cut))
	e.show("%.0f s of a TTL of %.0f s", served.Seconds(), ttl.Seconds())
	e.expect(served > ttl/4, "it reads from memory for %v", served.Round(100*time.Millisecond))
}

// staleReads has a read key in short calls until end, and counts how many
// began after overwritten was set and still returned the old value.
func (e *env) staleReads(a *party, key string, overwritten *atomic.Bool, end time.Time) (n int64) {
	for time.Now().Before(end) {
		late := overwritten.Load()
		_ = e.tries(50*time.Millisecond, func(ctx context.Context) error {
			resp, err := a.Get(ctx, key)
			if late && err == nil && len(resp.Kvs) == 1 && string(resp.Kvs[0].Value) == "1" {
				n++
			}
			return err
		})
		e.pause(time.Millisecond)
	}
	return n
}

// overtake has b write a key of each of the owners, who are cut off, and checks
// that they do not go on reading what it was.
func (e *env) overtake(ttl time.Duration, owners []*party, b *party) {
	end := time.Now().Add(ttl + 4*time.Second)
	var stale atomic.Int64
	e.together(len(owners), func(i int) {
		key := numbered("k", i)
		var overwritten atomic.Bool
		wait := e.begin(func() {
			e.put(b, key, "2")
			overwritten.Store(true)
		})
		stale.Add(e.staleReads(owners[i], key, &overwritten, end))
		wait()
	})
	n := int(stale.Load())
	e.show("%s", plural(n, "stale read"))
	e.expect(n == 0, "an owner goes on reading what was overwritten")
}

func checkCutOffStale(e *env) {
	const ttl = 3 * time.Second
	relay := e.etcd.Relay(0)
	b := e.party()
	var owners []*party
	for i := range 5 {
		// They are at different points of their leases when they are cut off.
		owners = append(owners, e.behind(relay, ttl))
		e.put(e.plain, numbered("k", i), "1")
		e.own(owners[i], numbered("k", i))
		e.pause(210 * time.Millisecond)
	}
	relay.Cut()
	e.overtake(ttl, owners, b)
	relay.Heal()
	for i, a := range owners {
		e.reconnects(a)
		e.agree(numbered("k", i), "2", a, b)
	}
}

// heldStream does something with each message before it hands it on.
type heldStream struct {
	grpc.ClientStream
	hold func()
}

func (s heldStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	s.hold()
	return err
}

// holdRenewals has hold called with each reply to a renewal.
func holdRenewals(hold func()) etcdtest.ClientOption {
	return func(cfg *clientv3.Config) {
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainStreamInterceptor(
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				s, err := open(ctx, desc, cc, method, opts...)
				if err != nil || method != pb.Lease_LeaseKeepAlive_FullMethodName {
					return s, err
				}
				return heldStream{s, hold}, nil
			}))
	}
}

// checkLateRenewal cuts an owner off when a renewal of its lease has been
// answered, and has it learn of that answer two seconds later.
func checkLateRenewal(e *env) {
	const ttl, late = 8 * time.Second, 2 * time.Second
	relay := e.etcd.Relay(0)
	var armed atomic.Bool
	renewed := make(chan struct{})
	a := e.behind(relay, ttl, holdRenewals(func() {
		if armed.CompareAndSwap(true, false) {
			relay.Cut()
			close(renewed)
			time.Sleep(late)
		}
	}))
	b := e.party()
	e.put(e.plain, numbered("k", 0), "1")
	e.own(a, numbered("k", 0))
	if !e.isPlain() {
		armed.Store(true)
		select {
		case <-renewed:
		case <-e.ctx.Done():
			e.fail("the lease is not renewed")
		}
	}
	relay.Cut()
	e.overtake(ttl, []*party{a}, b)
}

func checkDeadOwner(e *env) {
	const ttl = 4 * time.Second
	relay := e.etcd.Relay(0)
	a, b := e.behind(relay, ttl), e.party()
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	relay.Cut() // which for others is the same
	began := time.Now()
	e.put(b, "k", "2")
	took := time.Since(began)
	e.show("%.0f s with a TTL of %.0f s", took.Seconds(), ttl.Seconds())
	e.expect(took < ttl/4, "the writer waits for the lease of the owner to expire")
}

func checkContextsEnd(e *env) {
	a, b := e.party(), e.party()
	e.put(e.plain, "k", "1")
	e.own(b, "k")
	e.value(a, "k")
	e.etcd.Stop(0)
	for _, c := range operations(a) {
		e.returns(c.name+" ends", 3*time.Second, func() {
			err := e.tries(300*time.Millisecond, c.do)
			e.expect(err != nil, "%s is answered", c.name)
		})
	}
}

func checkServerBack(e *env) {
	const ttl = 2 * time.Second
	a, b := e.join(e.etcd.Endpoints(), contender.TTL(ttl)), e.join(e.etcd.Endpoints(), contender.TTL(ttl))
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	e.etcd.Stop(0)
	e.pause(2 * ttl)
	e.must(e.etcd.TryRestart(0))
	e.putAtLast(b, "k", "2")
	e.reconnects(a)
	e.agree("k", "2", a, b)
	e.handsOver(a, b, "l")
	e.handsOver(b, a, "m")
}
