package leasing

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// plan is a transaction of the user's with what it writes: all that is needed
// to put guards around it. It does no I/O and never changes.
type plan struct {
	layout    layout
	cmps      []clientv3.Cmp
	then, els []clientv3.Op

	points []string   // the keys it may write singly, each once, in order
	ranges []keyRange // the ranges it may delete, less the claims; disjoint, in order
	spared bool       // some range covers the claim prefix
	closed bool       // so does one without an end, whose first part has one

	// cover is set if there are too many points to guard each by its own claim.
	// These ranges hold all that is written, and perhaps more, and each of them
	// is guarded by a listing.
	cover  []keyRange
	maxOps int

	// What the user's part takes of maxOps: in the list of the outer transaction, and of
	// those that are nested in it.
	outer, inner int
}

// newPlan plans a transaction of the user's for servers that take up to maxOps
// operations.
func newPlan(l layout, maxOps int, cmps []clientv3.Cmp, then, els []clientv3.Op) (*plan, error) {
	p := &plan{layout: l, cmps: cmps, then: then, els: els, maxOps: maxOps}
	if err := p.collect(then); err != nil {
		return nil, err
	}
	if err := p.collect(els); err != nil {
		return nil, err
	}
	slices.Sort(p.points)
	p.points = slices.Compact(p.points)
	p.ranges = union(p.ranges)
	p.measure()
	if p.readOnly() || p.fits(len(p.points)+len(p.ranges), 0) {
		return p, nil
	}
	if len(p.points)+len(p.ranges) > 0 {
		guards := 1
		for p.fits(guards+1, 0) {
			guards++
		}
		p.cover = cover(p.points, p.ranges, guards)
	}
	if p.fits(1, 0) || weight(cmps, then, els) > maxOps {
		return p, nil // if it is too large for etcd too, etcd is to say so itself
	}
	return nil, fmt.Errorf("%w: %d operations or comparisons, counting each level of nesting at its largest, leave no room "+
		"for a guard within etcd's limit of %d (--max-txn-ops): split the transaction",
		ErrTxnTooLarge, weight(cmps, then, els), maxOps)
}

// collect adds what ops may write, nested transactions included.
func (p *plan) collect(ops []clientv3.Op) error {
	for _, op := range ops {
		switch {
		case op.IsTxn():
			_, then, els := op.Txn()
			if err := p.collect(then); err != nil {
				return err
			}
			if err := p.collect(els); err != nil {
				return err
			}
		case op.IsDelete() && len(op.RangeBytes()) > 0:
			if p.divides(op) {
				p.spared = true
				p.closed = p.closed || rangeOf(op).end == openEnd
			}
			p.ranges = append(p.ranges, p.layout.spare(rangeOf(op))...)
		case op.IsPut(), op.IsDelete():
			key := string(op.KeyBytes())
			if p.layout.reserved(key) {
				// Invariant: I13.
				return fmt.Errorf("%w: %q is under %q: write it through a plain client of etcd if you must", ErrClaimPrefix, key, p.layout.prefix)
			}
			p.points = append(p.points, key)
		}
	}
	return nil
}

func (p *plan) readOnly() bool { return len(p.points) == 0 && len(p.ranges) == 0 && !p.spared }

// single reports whether the plan is one put, whose refusal can be a REVOKE at
// the same time. For a delete it cannot: with the NOSPACE alarm on, etcd
// refuses any transaction that holds a put in any branch, and deletes are the
// way out.
func (p *plan) single() bool {
	return p.flat() && len(p.points) == 1 && len(p.then) == 1 && p.then[0].IsPut()
}

// bulky reports whether etcd may refuse the plan for its size.
func (p *plan) bulky() bool { return sizeOf(p.then)+sizeOf(p.els) > 1<<19 }

// sizeOf is about how many bytes ops take.
func sizeOf(ops []clientv3.Op) (n int) {
	for i := range ops {
		n += len(ops[i].KeyBytes()) + len(ops[i].ValueBytes())
		if ops[i].IsTxn() {
			_, then, els := ops[i].Txn()
			n += sizeOf(then) + sizeOf(els)
		}
	}
	return n
}

// flat reports whether the user's operations can stand beside ours, because
// there is nothing to decide.
func (p *plan) flat() bool { return len(p.cmps) == 0 && len(p.els) == 0 }

// fits reports whether etcd takes the plan with so many guards, each of which
// has an operation in the Else, and so many read-backs. etcd gives a nested
// transaction what the longest list of the outer one leaves.
func (p *plan) fits(guards, reads int) bool {
	els, then, inner := guards, p.outer+reads, p.inner
	if p.single() {
		els, inner = els+1, max(inner, 2)
	}
	return max(guards, then, els)+inner <= p.maxOps
}

// measure finds out what the user's part takes.
func (p *plan) measure() {
	cmps, then, els := p.sparing(p.cmps, p.then, p.els)
	p.outer, p.inner = 1, weight(cmps, then, els)
	if p.flat() {
		p.outer, p.inner = len(then), innerWeight(then)
	}
}

// weight is what a transaction takes of --max-txn-ops.
func weight(cmps []clientv3.Cmp, then, els []clientv3.Op) int {
	return max(len(cmps), len(then), len(els)) + max(innerWeight(then), innerWeight(els))
}

func innerWeight(ops []clientv3.Op) int {
	w := 0
	for i := range ops {
		if op := &ops[i]; op.IsTxn() {
			w = max(w, weight(op.Txn()))
		}
	}
	return w
}

// sparing returns the transaction with every range deletion that covers the
// claim prefix replaced by one that leaves the claims alone.
//
// Invariant: I13.
func (p *plan) sparing(cmps []clientv3.Cmp, then, els []clientv3.Op) ([]clientv3.Cmp, []clientv3.Op, []clientv3.Op) {
	if !p.spared {
		return cmps, then, els
	}
	return cmps, p.sparingOps(then), p.sparingOps(els)
}

func (p *plan) sparingOps(ops []clientv3.Op) []clientv3.Op {
	out := make([]clientv3.Op, 0, len(ops))
	for _, op := range ops {
		switch {
		case op.IsTxn():
			out = append(out, clientv3.OpTxn(p.sparing(op.Txn())))
		case p.divides(op):
			out = append(out, p.divide(op)...)
		default:
			out = append(out, op)
		}
	}
	return out
}

// divides reports whether op deletes a range that covers claims.
func (p *plan) divides(op clientv3.Op) bool {
	return op.IsDelete() && len(op.RangeBytes()) > 0 &&
		rangeOf(op).overlaps(keyRange{p.layout.prefix, p.layout.end})
}

// divide returns deletions of what op deletes, less the claims. They take the
// place of op in its list, so that etcd sees the same overlaps with puts.
func (p *plan) divide(op clientv3.Op) (dels []clientv3.Op) {
	parts := p.layout.spare(rangeOf(op))
	if len(parts) == 0 {
		// Invariants: I10, I11. An empty range, so that etcd tells the revision
		// of the writes before it, and that of the store if there are none. It is
		// where the user's began, as its rights are the user's.
		begin := string(op.KeyBytes())
		if begin == openEnd {
			begin += "\x00" // as an end it would be open
		}
		parts = []keyRange{{begin, begin}}
	}
	for _, r := range parts {
		opts := []clientv3.OpOption{clientv3.WithRange(r.end)}
		if op.IsPrevKV() {
			opts = append(opts, clientv3.WithPrevKV())
		}
		dels = append(dels, clientv3.OpDelete(r.begin, opts...))
	}
	return dels
}

// merge turns the replies to sparing operations into those to ops.
func (p *plan) merge(ops []clientv3.Op, resps []*etcdserverpb.ResponseOp) []*etcdserverpb.ResponseOp {
	out := make([]*etcdserverpb.ResponseOp, 0, len(ops))
	for _, op := range ops {
		if p.divides(op) {
			d := new(etcdserverpb.DeleteRangeResponse)
			n := len(p.divide(op))
			for _, r := range resps[:n] {
				part := r.GetResponseDeleteRange()
				d.Header = part.Header
				d.Deleted += part.Deleted
				d.PrevKvs = append(d.PrevKvs, part.PrevKvs...)
			}
			out = append(out, &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: d}})
			resps = resps[n:]
			continue
		}
		if op.IsTxn() {
			_, then, els := op.Txn()
			t := resps[0].GetResponseTxn()
			if !t.Succeeded {
				then = els
			}
			t.Responses = p.merge(then, t.Responses)
		}
		out = append(out, resps[0])
		resps = resps[1:]
	}
	return out
}

// explain says more about an error of etcd's, where the plan has a part in it.
// etcd does not mind a put of a key that the same transaction deletes with an
// open range; it does if the range has an end, as it gets by being divided.
func (p *plan) explain(err error) error {
	if errors.Is(err, rpctypes.ErrPermissionDenied) {
		return fmt.Errorf("leasing: a write takes the rights to its keys and to their claims under %q: %w", p.layout.prefix, err)
	}
	if p.closed && errors.Is(err, rpctypes.ErrDuplicateKey) {
		return fmt.Errorf("leasing: an open range is deleted in two parts, to spare the claims under %q, "+
			"and no key of the first may be put in the same transaction: %w", p.layout.prefix, err)
	}
	return err
}

// barred returns the ranges that are guarded by a listing of their claims.
// Nothing in them is to be claimed by us while the plan is tried.
func (p *plan) barred() []keyRange {
	if p.cover != nil {
		return p.cover
	}
	return p.ranges
}

// places returns the points as ranges.
func (p *plan) places() []keyRange {
	out := make([]keyRange, len(p.points))
	for i, key := range p.points {
		out[i] = keyRange{key, key + "\x00"}
	}
	return out
}

// writes reports whether the plan may write key.
func (p *plan) writes(key string) bool {
	_, found := slices.BinarySearch(p.points, key)
	return found || contained(key, p.ranges)
}

// request is a plan as it is sent once, and how to read its reply.
type request struct {
	guards    []clientv3.Cmp
	then, els []clientv3.Op
	read      []int // the points that are read back, at the end of then
	asks      bool  // a refusal asks for the claim in the way
	listing   int   // where els lists the claims that are newer than the listing; they come last
}

// request puts the guards around the plan: what is believed of each point, as
// w has it, and the revision at which the claims were listed. If it asks, which
// is for single puts, a refusal asks for the claim in the way.
//
// Invariants: I4, I5.
func (p *plan) request(w *write, listed int64, asks bool) request {
	q := request{asks: asks}
	for _, r := range p.barred() {
		q.guards = append(q.guards, p.layout.unclaimedSince(r, listed))
	}
	if p.cover == nil {
		for i, key := range p.points {
			q.guards = append(q.guards, p.layout.holds(key, w.points[i].grant))
			q.els = append(q.els, clientv3.OpGet(p.layout.claimKey(key)))
			if w.points[i].grant != 0 && p.fits(len(p.points)+len(p.ranges), len(q.read)+1) {
				q.read = append(q.read, i)
			}
		}
		if asks {
			revoke := p.layout.revokeAny(p.points[0])
			q.els = append(q.els, revoke.op())
		}
	}
	q.listing = len(q.els)
	for _, r := range p.barred() {
		q.els = append(q.els, p.layout.claimsSince(r, listed))
	}
	cmps, then, els := p.sparing(p.cmps, p.then, p.els)
	if p.flat() {
		q.then = slices.Clone(then)
	} else {
		q.then = []clientv3.Op{clientv3.OpTxn(cmps, then, els)}
	}
	for _, i := range q.read {
		q.then = append(q.then, clientv3.OpGet(p.points[i]))
	}
	return q
}

// reply returns the user's part of the reply to q, which was applied.
func (p *plan) reply(q request, resp *clientv3.TxnResponse) *clientv3.TxnResponse {
	r := &etcdserverpb.TxnResponse{Header: resp.Header, Succeeded: true}
	if p.flat() {
		n := len(resp.Responses) - len(q.read)
		r.Responses = resp.Responses[:n:n] // Invariant: I12. What was read back behind that is the cache's.
	} else {
		inner := resp.Responses[0].GetResponseTxn()
		r.Succeeded, r.Responses = inner.Succeeded, inner.Responses
	}
	if p.spared {
		taken := p.then
		if !r.Succeeded {
			taken = p.els
		}
		r.Responses = p.merge(taken, r.Responses)
	}
	return (*clientv3.TxnResponse)(r)
}

// readBacks returns what the reply to q, which was applied, says of the points.
func (p *plan) readBacks(q request, resp *clientv3.TxnResponse) []readBack {
	out := make([]readBack, len(p.points))
	first := len(resp.Responses) - len(q.read)
	for n, i := range q.read {
		out[i] = readBack{true, onlyKV(resp.Responses[first+n])}
	}
	return out
}

// newcomers returns the claims that were made in the barred ranges after the
// listing, as the reply to q tells, which was refused.
func (p *plan) newcomers(q request, resp *clientv3.TxnResponse) (listing []claimRecord) {
	for _, r := range resp.Responses[q.listing:] {
		for _, kv := range r.GetResponseRange().GetKvs() {
			listing = append(listing, p.layout.record(kv))
		}
	}
	return listing
}

// claims returns what the reply to q, which was refused, says of the claims of
// the points; nothing if they were not read.
func (p *plan) claims(resp *clientv3.TxnResponse) []*claimRecord {
	if p.cover != nil {
		return nil
	}
	out := make([]*claimRecord, len(p.points))
	for i := range out {
		if kv := onlyKV(resp.Responses[i]); kv != nil {
			r := p.layout.record(kv)
			out[i] = &r
		}
	}
	return out
}
