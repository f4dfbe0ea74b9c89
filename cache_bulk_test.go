package leasing

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

func TestWantBeginsWhatMayBeClaimed(t *testing.T) {
	run(t, owning("a", 5)+owning("b", 6)+owning("c", 7)+`
		revoked b@6 ours        => yield b@6
		yielded b@6
		release c               => yield c@7 leaving c
		join D d                => begun sharing
		begin W e               => e@0
		begin V [f,g)           =>
		taken h@8
		want a b c d e f h i    => begun i joined d owned a soon c
		wait 20s
		yielded c@7
		unsettled W
		unsettled V
		want b c e f h i        => begun b begun c begun e begun f joined i
		send b
		granted b @9 v@3
		read b                  => v@3 9
	`)
}

// It displaces nothing, and what is under way counts.
func TestWantStopsAtTheLimit(t *testing.T) {
	s := newScript(t)
	s.c.limit = 3
	s.play(owning("a", 5) + `
		join B b                => begun sharing
		want x y z              => begun x left y left z
		want a b                => joined b owned a
		want y                  => left y
		denied x
		want a y z              => begun y left z owned a
		send y
		granted y @9 v@3
		read a                  => v@3 5
	`)
}

// Invariant I7: what is given back has been forgotten.
func TestI7ReleaseForgets(t *testing.T) {
	run(t, owning("k", 5)+owning("j", 6)+`
		release k none j k      => yield j@6 k@5 leaving k leaving j leaving k
		read k                  => ?
		join C k                => no
		release k               => leaving k
		yielded k@5
		state k                 => none
		release k               =>
		join C k                => begun sharing     # it does not rest
	`)
}

func TestReleaseOfAClaimUnderWay(t *testing.T) {
	run(t, `
		join C k                => begun sharing
		send C
		release k               => after k
		granted C @5 v@3        => yield k@5
		facts C                 => v@3 5
		read k                  => ?
		yielded k@5
		state k                 => none

		join D k                => begun sharing
		release k               => after k
		unsent D
		state k                 => none
	`)
}

// A key is given back while it is written: its write tells nothing any more.
func TestI7ReleaseWhileAWriteIsUnsettled(t *testing.T) {
	run(t, owning("k", 5)+`
		begin W k               => k@5
		release k               => yield k@5 leaving k
		applied W @7 k=w@7
		read k                  => ?
		yielded k@5
		state k                 => none
	`)
}

// Claims come back that were not sent, as the leases have no room: Prefetch goes on
// as soon as there is another lease. There are four keys to a lease.
func TestPrefetchWaitsForLeases(t *testing.T) {
	onRigOf(t, fourPerLease, func(t *testing.T, r *rig) {
		r.on(memetcd.MethodLeaseGrant, func(ctx context.Context, _ proto.Message, do next) (proto.Message, error) {
			time.Sleep(10 * time.Millisecond)
			return do(ctx)
		})
		var keys []string
		for i := range 200 {
			keys = append(keys, fmt.Sprint("k", i))
			if _, err := r.srv.NewClient("root").Put(t.Context(), keys[i], "v"); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		n, err := r.kv.Prefetch(t.Context(), "k", clientv3.WithPrefix())
		if n != len(keys) || err != nil {
			t.Errorf("%d keys are owned: %v", n, err)
		}
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("50 leases, one after the other in 10 ms each, took %v", d)
		}
		r.wantOwned(keys...)
		if n, err := r.kv.Prefetch(t.Context(), "k", clientv3.WithPrefix()); n != len(keys) || err != nil || r.kv.cache.underway != 0 {
			t.Errorf("%d keys are owned: %v", n, err)
		}
	})
}
