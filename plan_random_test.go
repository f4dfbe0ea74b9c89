package leasing

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcdTakes is etcd's rule as it stands in its checkTxnRequest: at each level
// the longest of the three lists counts, and nested levels get what is left.
func etcdTakes(r *etcdserverpb.TxnRequest, maxOps int) bool {
	longest := len(r.Compare)
	if len(r.Success) > longest {
		longest = len(r.Success)
	}
	if len(r.Failure) > longest {
		longest = len(r.Failure)
	}
	if longest > maxOps {
		return false
	}
	for _, op := range append(slices.Clone(r.Success), r.Failure...) {
		if op.GetRequestTxn() != nil && !etcdTakes(op.GetRequestTxn(), maxOps-longest) {
			return false
		}
	}
	return true
}

// randomTxn is a transaction that may hold anything; size is how long its
// lists may be.
func randomTxn(rng *rand.Rand, depth, size int) clientv3.Op {
	key := func() string { return fmt.Sprintf("%c%02d", "abcdx"[rng.IntN(5)], rng.IntN(40)) }
	var cmps []clientv3.Cmp
	for range rng.IntN(size + 1) {
		cmps = append(cmps, clientv3.Compare(clientv3.Version(key()), "=", 0))
	}
	list := func() (ops []clientv3.Op) {
		for range rng.IntN(size + 1) {
			switch k := rng.IntN(30); {
			case k < 8:
				ops = append(ops, clientv3.OpGet(key()))
			case k < 22:
				ops = append(ops, clientv3.OpPut(key(), "v"))
			case k < 24:
				ops = append(ops, clientv3.OpDelete(key()))
			case k < 25:
				ops = append(ops, clientv3.OpDelete(key(), clientv3.WithRange(key())))
			case k < 26 && rng.IntN(4) == 0:
				ops = append(ops, clientv3.OpDelete(key(), clientv3.WithFromKey()))
			case k < 27 && rng.IntN(4) == 0:
				ops = append(ops, clientv3.OpDelete("claims/a", clientv3.WithRange(key())), clientv3.OpDelete("claims/a", clientv3.WithRange("claims/b")))
			case depth > 0 && (size <= 8 || rng.IntN(8) == 0):
				ops = append(ops, randomTxn(rng, depth-1, size/2))
			}
		}
		return ops
	}
	if rng.IntN(3) == 0 {
		cmps = nil
	}
	thenOps, elseOps := list(), list()
	if rng.IntN(2) == 0 {
		elseOps = nil
	}
	return clientv3.OpTxn(cmps, thenOps, elseOps)
}

// written lists what a request may put or delete, as ranges.
func written(r *etcdserverpb.TxnRequest) (out []keyRange) {
	for _, op := range append(slices.Clone(r.Success), r.Failure...) {
		switch op := op.Request.(type) {
		case *etcdserverpb.RequestOp_RequestPut:
			out = append(out, keyRange{string(op.RequestPut.Key), string(op.RequestPut.Key) + "\x00"})
		case *etcdserverpb.RequestOp_RequestDeleteRange:
			r := keyRange{string(op.RequestDeleteRange.Key), string(op.RequestDeleteRange.RangeEnd)}
			if r.end == "" {
				r.end = r.begin + "\x00"
			}
			out = append(out, r)
		case *etcdserverpb.RequestOp_RequestTxn:
			out = append(out, written(op.RequestTxn)...)
		}
	}
	return out
}

// guardedBy reports whether some comparison of the request is about the claims
// of all keys in r, and says that they are unclaimed, ours, or not new.
func guardedBy(req *etcdserverpb.TxnRequest, r keyRange, grants map[string]int64, listed int64) bool {
	begin, end := planPrefix+r.begin, planPrefix+r.end
	if r.end == openEnd {
		end = "claims0"
	}
	for _, c := range req.Compare {
		if c.Target != etcdserverpb.Compare_CREATE {
			continue
		}
		if len(c.RangeEnd) > 0 {
			if string(c.Key) <= begin && end <= string(c.RangeEnd) && c.Result == etcdserverpb.Compare_LESS && c.GetCreateRevision() == listed+1 {
				return true
			}
		} else if string(c.Key) == begin && end == begin+"\x00" && c.Result == etcdserverpb.Compare_EQUAL && c.GetCreateRevision() == grants[r.begin] {
			return true
		}
	}
	return false
}

// Invariants: I5, I13. Of random transactions: what etcd would take is either
// refused for want of room or planned within etcd's limit, with a guard for
// everything that it may write, and with nothing written under the claims.
func TestI5I13PlansOfRandomTransactions(t *testing.T) {
	const listed, planSeeds = 9, 1500
	count := make(map[string]int)
	for seed := range uint64(planSeeds) {
		rng := rand.New(rand.NewPCG(seed, 11))
		maxOps := []int{8, 16, 64, 128}[rng.IntN(4)]
		size := 1 + rng.IntN(6)
		if rng.IntN(3) == 0 {
			size = 1 + rng.IntN(maxOps+8)
		}
		op := randomTxn(rng, 3, size)
		user := requestOf(t, op)
		cmps, ops, els := op.Txn()
		takes := etcdTakes(user, maxOps)
		if (weight(cmps, ops, els) <= maxOps) != takes {
			t.Fatalf("seed %d: weight %d with limit %d, etcd takes it: %v", seed, weight(cmps, ops, els), maxOps, takes)
		}
		p, err := newPlan(newLayout(planPrefix), maxOps, cmps, ops, els)
		switch {
		case err != nil && (!takes || !errors.Is(err, ErrTxnTooLarge)):
			t.Fatalf("seed %d: etcd takes it: %v, but: %v", seed, takes, err)
		case err != nil:
			count["no room"]++
			continue
		case p.readOnly():
			count["reads"]++
			continue
		}
		grants := make(map[string]int64)
		for _, key := range p.points {
			if rng.IntN(2) == 0 {
				grants[key] = 1 + rng.Int64N(5)
			}
		}
		q, req := planned(t, p, grants, "", listed)
		switch {
		case !etcdTakes(req, maxOps) && !takes:
			count["too large for etcd"]++
			continue
		case !etcdTakes(req, maxOps):
			t.Fatalf("seed %d: etcd does not take what was planned for it, with limit %d:\n%v", seed, maxOps, req)
		case p.cover != nil:
			count["covered"]++
		default:
			count["guarded one by one"]++
		}
		for _, r := range written(&etcdserverpb.TxnRequest{Success: req.Success}) {
			if r.empty() {
				continue
			}
			if !guardedBy(req, r, grants, listed) {
				t.Fatalf("seed %d: nothing guards %q:\n%v", seed, r, req.Compare)
			}
			if r.overlaps(keyRange{planPrefix, "claims0"}) {
				t.Fatalf("seed %d: writes claims: %q", seed, r)
			}
		}
		for _, r := range written(&etcdserverpb.TxnRequest{Failure: req.Failure}) {
			if !q.asks || r.begin != planPrefix+p.points[0] {
				t.Fatalf("seed %d: a refusal writes %q", seed, r)
			}
		}
		for _, r := range p.barred() {
			if r.empty() {
				t.Fatalf("seed %d: an empty range is barred", seed)
			}
		}
		for _, key := range p.points {
			if p.cover != nil && !contained(key, p.cover) || !p.writes(key) {
				t.Fatalf("seed %d: the cover %q lacks %q", seed, p.cover, key)
			}
		}
	}
	for _, kind := range []string{"no room", "reads", "too large for etcd", "covered", "guarded one by one"} {
		if count[kind] < planSeeds/100 {
			t.Errorf("only %d of the transactions are of the kind %q", count[kind], kind)
		}
	}
}
