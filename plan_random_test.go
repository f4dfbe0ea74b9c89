package leasing

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// FuzzPlan plans any transaction, checks the plan against what the transaction
// says, and carries it out.
func FuzzPlan(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) { checkScene(t, newScene(data)) })
}

// Invariants: I4, I5, I11, I13. FuzzPlan as a random walk.
func TestI4I5I11I13PlansOfRandomTransactions(t *testing.T) {
	const seeds = 500
	count := make(map[string]int)
	for seed := range uint64(seeds) {
		rng := rand.New(rand.NewPCG(seed, 11))
		data := make([]byte, 20+rng.IntN(400))
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			for kind := range strings.SplitSeq(checkScene(t, newScene(data)), ", ") {
				count[kind]++
			}
		})
	}
	t.Log(count)
	for _, kind := range []string{
		"of claims", "no room", "reads", "too large for etcd", "covered", "guarded one by one",
		"from memory", "done", "refused", "in the way",
	} {
		if count[kind] < seeds/100 {
			t.Errorf("only %d of the transactions are of the kind %q", count[kind], kind)
		}
	}
}

// checkScene checks the plan of a transaction and what comes of it. It returns
// of which kinds the transaction is.
func checkScene(t *testing.T, s *scene) (kinds string) {
	t.Helper()
	user := requestOf(t, s.op)
	st := newStage(t, s)
	defer st.close()
	answered := st.checkMemory()
	p, ok, kinds := checkPlanned(t, s, user)
	switch {
	case answered && kinds == "of claims":
		t.Fatalf("answered from memory, though it may write a claim:\n%v", user)
	case answered:
		kinds += ", from memory"
	}
	switch {
	case !ok:
		return kinds
	case p.readOnly():
		return kinds + ", " + st.decide()
	}
	return kinds + ", " + st.write(p, user)
}

// checkPlanned plans a transaction, or checks that it is refused with reason.
func checkPlanned(t *testing.T, s *scene, user *etcdserverpb.TxnRequest) (p *plan, ok bool, kind string) {
	t.Helper()
	cmps, ops, els := s.op.Txn()
	takes := etcdTakes(user, s.maxOps)
	if (weight(cmps, ops, els) <= s.maxOps) != takes {
		t.Fatalf("weight %d with limit %d, etcd takes it: %v", weight(cmps, ops, els), s.maxOps, takes)
	}
	ofClaims := slices.ContainsFunc(written(user), func(r keyRange) bool {
		return r.end == "" && strings.HasPrefix(r.begin, s.layout.prefix)
	})
	writes := slices.ContainsFunc(written(user), func(r keyRange) bool { return r.end == "" || r.end == "\x00" || r.begin < r.end })
	noRoom := takes && writes && !etcdTakes(leastGuarded(user, s.layout), s.maxOps)
	p, err := newPlan(s.layout, s.maxOps, cmps, ops, els)
	switch {
	case errors.Is(err, ErrClaimPrefix) != ofClaims:
		t.Fatalf("single writes of claims: %v, but: %v\n%v", ofClaims, err, user)
	case ofClaims:
		return nil, false, "of claims"
	case errors.Is(err, ErrTxnTooLarge) != noRoom:
		t.Fatalf("room for no guard: %v, limit %d, but: %v\n%v", noRoom, s.maxOps, err, user)
	case noRoom:
		return nil, false, "no room"
	case err != nil:
		t.Fatal(err)
	case p.readOnly():
		return p, true, "reads"
	case !takes:
		return p, true, "too large for etcd"
	case p.cover != nil:
		return p, true, "covered"
	}
	return p, true, "guarded one by one"
}

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

// leastGuarded is what the user's transaction takes at least: one guard, and
// one operation to look for what is in the way.
func leastGuarded(user *etcdserverpb.TxnRequest, l layout) *etcdserverpb.TxnRequest {
	q := &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{}},
		Success: sparedOps(user.Success, l),
		Failure: []*etcdserverpb.RequestOp{{}},
	}
	if len(user.Compare) > 0 || len(user.Failure) > 0 {
		q.Success = []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: &etcdserverpb.TxnRequest{
			Compare: user.Compare, Success: q.Success, Failure: sparedOps(user.Failure, l),
		}}}}
	}
	return q
}

// sparedOps has as many operations as it takes to do ops to everything but the
// claims.
func sparedOps(ops []*etcdserverpb.RequestOp, l layout) (out []*etcdserverpb.RequestOp) {
	for _, op := range ops {
		n := 1
		if d := op.GetRequestDeleteRange(); d != nil {
			n = partsBeside(string(d.Key), string(d.RangeEnd), l)
		}
		if r := op.GetRequestTxn(); r != nil {
			op = &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: &etcdserverpb.TxnRequest{
				Compare: r.Compare, Success: sparedOps(r.Success, l), Failure: sparedOps(r.Failure, l),
			}}}
		}
		out = append(out, slices.Repeat([]*etcdserverpb.RequestOp{op}, n)...)
	}
	return out
}

// partsBeside counts the pieces of a range beside the claims.
func partsBeside(begin, end string, l layout) (n int) {
	open, last := end == "\x00", l.end == "\x00" // nothing is above the range; above the claims
	if end == "" || !open && end <= begin || !open && end <= l.prefix || !last && begin >= l.end {
		return 1 // no claim is in it
	}
	if begin < l.prefix {
		n++
	}
	if !last && (open || end > l.end) {
		n++
	}
	return n
}

// written lists what a request may put or delete, whichever branches it takes;
// a single key has no end.
func written(r *etcdserverpb.TxnRequest) (out []keyRange) {
	for _, op := range append(slices.Clone(r.Success), r.Failure...) {
		switch op := op.Request.(type) {
		case *etcdserverpb.RequestOp_RequestPut:
			out = append(out, keyRange{string(op.RequestPut.Key), ""})
		case *etcdserverpb.RequestOp_RequestDeleteRange:
			out = append(out, keyRange{string(op.RequestDeleteRange.Key), string(op.RequestDeleteRange.RangeEnd)})
		case *etcdserverpb.RequestOp_RequestTxn:
			out = append(out, written(op.RequestTxn)...)
		}
	}
	return out
}

// namedBy reports whether any of the ranges names key.
func namedBy(key string, ranges []keyRange) bool {
	return slices.ContainsFunc(ranges, func(r keyRange) bool { return named(key, r.begin, r.end) })
}

// mayPut reports whether a put stands in any branch.
func mayPut(r *etcdserverpb.TxnRequest) bool {
	return slices.ContainsFunc(append(slices.Clone(r.Success), r.Failure...), func(op *etcdserverpb.RequestOp) bool {
		return op.GetRequestPut() != nil || op.GetRequestTxn() != nil && mayPut(op.GetRequestTxn())
	})
}

// guarded reports whether some guard of the request is about the claim of key,
// and says that it is unclaimed or ours under our grant, or not newer than the
// listing.
func guarded(req *etcdserverpb.TxnRequest, claim string, grant, listed int64) bool {
	return slices.ContainsFunc(req.Compare, func(c *etcdserverpb.Compare) bool {
		if c.Target != etcdserverpb.Compare_CREATE || !named(claim, string(c.Key), string(c.RangeEnd)) {
			return false
		}
		if len(c.RangeEnd) > 0 {
			return c.Result == etcdserverpb.Compare_LESS && c.GetCreateRevision() == listed+1
		}
		return c.Result == etcdserverpb.Compare_EQUAL && c.GetCreateRevision() == grant
	})
}

// checkRequest checks what is sent for a transaction of the user's: that it
// fits, that it writes what the user writes but for claims, each key of it
// under a guard, and that it puts only if the user does.
func checkRequest(t *testing.T, s *scene, user, req *etcdserverpb.TxnRequest, q request, grants map[string]int64, listed int64) {
	t.Helper()
	prefix := s.layout.prefix
	if etcdTakes(user, s.maxOps) && !etcdTakes(req, s.maxOps) {
		t.Fatalf("etcd does not take what was planned for it, with limit %d:\n%v", s.maxOps, req)
	}
	if mayPut(req) && !mayPut(user) {
		t.Fatalf("there is a put, where the user has none:\n%v", req)
	}
	byUser, byUs := written(user), written(&etcdserverpb.TxnRequest{Success: req.Success})
	if slices.ContainsFunc(byUs, func(r keyRange) bool { return r.begin == "" }) {
		return // etcd refuses it, whatever else it says
	}
	for _, key := range edges(prefix, byUser) {
		wanted := namedBy(key, byUser) && !strings.HasPrefix(key, prefix)
		if namedBy(key, byUs) != wanted {
			t.Fatalf("%q is to be written: %v, but not by\n%v", key, wanted, req)
		}
		if wanted && !guarded(req, prefix+key, grants[key], listed) {
			t.Fatalf("nothing guards %q, with grant %d:\n%v", key, grants[key], req)
		}
	}
	for _, r := range written(&etcdserverpb.TxnRequest{Failure: req.Failure}) {
		if !q.asks || r.end != "" || r.begin != prefix+byUser[0].begin {
			t.Fatalf("a refusal writes %q:\n%v", r, req)
		}
	}
}

// edges are the keys at which the ranges may begin or end, and the keys next
// to these.
func edges(prefix string, ranges []keyRange) (keys []string) {
	for _, r := range append(slices.Clone(ranges), keyRange{prefix, newLayout(prefix).end}) {
		for _, k := range []string{r.begin, r.end} {
			if k == "" {
				continue
			}
			keys = append(keys, k, k+"\x00")
			if n := len(k) - 1; k[n] > 0 {
				keys = append(keys, k[:n]+string(k[n]-1)+"\xff")
			} else if n > 0 {
				keys = append(keys, k[:n])
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
