package integration_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/differ"
)

var (
	diffSteps = flag.Int("diff.steps", 2000, "how many steps each run of TestDifferential takes")
	diffSeed  = flag.Uint64("diff.seed", 0, "the seed of TestDifferential; 0 is a new one each time")
)

// TestDifferential does the same random operations through a KV of the library
// and through a plain client of another etcd, one after the other, and compares
// every reply and every error. Now and then another KV, beside the first, does
// the operation, and takes keys away from it.
//
// The runs are fresh, where the KV owns little, as it is closed and opened again
// every few steps, and warm, where it owns most keys most of the time.
func TestDifferential(t *testing.T) {
	seed := *diffSeed
	if seed == 0 {
		seed = rand.Uint64N(1_000_000)
	}
	t.Run("fresh", func(t *testing.T) {
		d := newDifferential(t, seed, false)
		for step := range *diffSteps {
			if step%25 == 24 {
				d.reopen()
			}
			d.step(step)
		}
		d.finish()
	})
	t.Run("warm", func(t *testing.T) {
		d := newDifferential(t, seed, true)
		for step := range *diffSteps {
			if step%10 == 0 {
				d.warm()
			}
			d.step(step)
		}
		d.finish()
		if d.local < *diffSteps/10 {
			t.Errorf("in %d steps %d reads were answered from memory, which is too few", *diffSteps, d.local)
		}
	})
}

// differential is a random run in a world.
type differential struct {
	*world
	*differ.Generator
	otherTold int64 // side.told for the other KV
	reads     int   // by the KV, transactions that write nothing included
	local     int   // of these, answered without a request
}

func newDifferential(t *testing.T, seed uint64, calm bool) *differential {
	t.Helper()
	d := &differential{world: newWorld(t)}
	d.ctx = t.Context()
	d.Generator = &differ.Generator{
		Rand: rand.New(rand.NewPCG(seed, 5)), Prefix: "leasing/", Calm: calm,
		Data:   func() int64 { return int64(len(d.plain.revs)) - 1 },
		Leases: func() int { return len(d.plain.leases) },
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again: go test -run '%s$' -diff.seed %d -diff.steps %d", t.Name(), seed, *diffSteps)
		}
	})
	d.grant(3600)
	d.grant(3600)
	return d
}

// Actual and Lease make a differ.Side of a side.
func (s *side) Actual(n int64) int64 {
	switch {
	case n <= 0:
		return n
	case n >= int64(len(s.revs)):
		return 1 << 40
	}
	return s.revs[n]
}

func (s *side) Lease(i int) clientv3.LeaseID {
	if i >= len(s.leases) {
		return 12345 // there is no such lease
	}
	return s.leases[i]
}

// reopen makes a new KV in place of the one that is tested.
func (d *differential) reopen() {
	d.Helper()
	d.must(d.kv.Close())
	kv, err := leasing.New(d.ctx, d.kvClient, leasing.Config{Prefix: d.Prefix})
	d.must(err)
	d.Cleanup(func() { kv.Close() })
	d.kv, d.leased.kv, d.leased.told = kv, kv, 0
}

// warm lets the KV read all keys, and so own those that do not rest.
func (d *differential) warm() {
	d.Helper()
	for _, key := range d.Keys() {
		d.same("warm "+key, func(s *side) (any, error) { return s.kv.Get(d.ctx, key) })
	}
}

// step does one thing to both sides. It ends the test if they differ.
func (d *differential) step(n int) {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.ctx, 30*time.Second)
	defer cancel()
	switch k := d.IntN(400); {
	case k < 5:
		d.grant(3600)
	case k < 8:
		d.revokeLease(ctx, d.Lease())
	case k < 12:
		d.compact(ctx, d.Data()+1-int64(d.IntN(60)), k < 10)
	case k < 24:
		op := d.Get()
		d.same(fmt.Sprintf("step %d, stream: %s", n, op.Text(d.leased)), func(s *side) (any, error) { return op.Stream(ctx, s.kv, s) })
	case k < 84 && !d.Calm || k < 26:
		d.swap()
		d.op(ctx, n, "by the other KV")
		d.swap()
	default:
		before := d.sent.KV()
		if op := d.op(ctx, n, "by the KV"); op.ReadOnly() {
			d.reads++
			if d.sent.KV() == before {
				d.local++
			}
		}
	}
	if d.Failed() {
		d.FailNow()
	}
}

// swap puts the other KV in the place of the KV, or back.
func (d *differential) swap() {
	d.kv, d.other = d.other, d.kv
	d.leased.kv = d.kv
	d.leased.told, d.otherTold = d.otherTold, d.leased.told
}

func (d *differential) op(ctx context.Context, n int, who string) differ.Op {
	d.Helper()
	op, by := d.Op(), d.IntN(2)
	d.same(fmt.Sprintf("step %d, %s: %s", n, who, op.Text(d.leased)), func(s *side) (any, error) {
		if by == 0 {
			return s.kv.Do(ctx, op.For(s))
		}
		return op.Call(ctx, s.kv, s)
	})
	return op
}

// revokeLease revokes a lease on either side, and with it the keys that it
// carries.
func (d *differential) revokeLease(ctx context.Context, i int) {
	d.Helper()
	want, wantErr := d.plain.cl.Revoke(ctx, d.plain.Lease(i))
	got, gotErr := d.leased.cl.Revoke(ctx, d.leased.Lease(i))
	if describe(wantErr) != describe(gotErr) {
		d.Fatalf("revoking lease %d: %v; with the plain client: %v", i, gotErr, wantErr)
	}
	if wantErr == nil {
		d.note((*pb.LeaseRevokeResponse)(want), (*pb.LeaseRevokeResponse)(got))
	}
}

// compact compacts either side to a change of data.
func (d *differential) compact(ctx context.Context, n int64, physical bool) {
	d.Helper()
	var opts []clientv3.CompactOption
	if physical {
		opts = append(opts, clientv3.WithCompactPhysical())
	}
	_, wantErr := d.plain.kv.Compact(ctx, d.plain.Actual(n), opts...)
	got, gotErr := d.leased.kv.Compact(ctx, d.leased.Actual(n), opts...)
	if describe(wantErr) != describe(gotErr) {
		d.Fatalf("compacting to change %d: %v; with the plain client: %v", n, gotErr, wantErr)
	}
	if gotErr == nil && got.Header.GetRevision() < d.leased.told {
		d.Fatalf("compacting: the revision went back from %d to %d", d.leased.told, got.Header.GetRevision())
	}
}

// finish compares all that there is in the end.
func (d *differential) finish() {
	d.Helper()
	var texts []string
	for _, s := range []*side{d.plain, d.leased} {
		resp, err := s.cl.Get(d.ctx, "", clientv3.WithPrefix())
		d.must(err)
		var b strings.Builder
		for _, kv := range resp.Kvs {
			if !strings.HasPrefix(string(kv.Key), d.Prefix) {
				fmt.Fprintln(&b, s.relative(kv, true))
			}
		}
		texts = append(texts, b.String())
	}
	if texts[0] != texts[1] {
		d.Errorf("in the end the KV's etcd holds\n%sthe plain client's\n%s", texts[1], texts[0])
	}
	for _, key := range d.Keys() {
		d.agree("in the end", key)
	}
	d.Logf("%d changes of data; of %d reads of the KV %d were answered from memory", d.Data(), d.reads, d.local)
}
