package leasing

import (
	"context"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// evaluate answers a transaction from memory, or returns nil. It decides the
// comparisons and then looks only at the branch that is taken.
//
// Invariants: I1, I10, I11. All keys are loaded, and then loaded again: if
// none has changed, there was an instant between at which all of them stood as
// loaded. The clock is checked after it.
func (kv *KV) evaluate(cmps []clientv3.Cmp, then, els []clientv3.Op) *clientv3.TxnResponse {
	if len(cmps) == 0 && slices.ContainsFunc(then, func(op clientv3.Op) bool { return !op.IsGet() && !op.IsTxn() }) {
		return nil
	}
	v := localView{cache: kv.cache, rev: kv.cache.seen.Load()}
	ident := kv.cache.ident.Load()
	r := v.txn(cmps, then, els)
	if r == nil || ident == nil || !wellFormed(kv.layout, kv.maxOps, cmps, then, els) {
		return nil
	}
	if !v.unchanged() || !v.live(time.Now()) {
		return nil
	}
	v.count(kv.cache.count.hits.add()%sampled == 0)
	setHeader(r.Header, ident, v.rev)
	setRevisions(r.Responses, v.rev)
	return (*clientv3.TxnResponse)(r)
}

// localView is a consistent look at several owned keys.
type localView struct {
	cache *cache
	rev   int64 // the reply's header revision

	// What was seen, once for each time that a key was looked at: the first
	// ones in memory that costs nothing.
	few  [6]sight
	n    int // how many of few
	more []sight
}

// load returns what is known of key, or nil.
func (v *localView) load(key []byte) *snapshot {
	s := v.cache.sight(key)
	switch {
	case s.snapshot == nil:
		return nil
	case v.n < len(v.few):
		v.few[v.n] = s
		v.n++
	default:
		v.more = append(v.more, s)
	}
	v.rev = max(v.rev, s.rev)
	return s.snapshot
}

// unchanged reports whether all keys still are as they were loaded.
func (v *localView) unchanged() bool {
	return all(v.few[:v.n], sight.unchanged) && all(v.more, sight.unchanged)
}

// live reports whether every lease that the keys depend on is live.
func (v *localView) live(now time.Time) bool {
	live := func(s sight) bool { return s.lease.live(now) }
	return all(v.few[:v.n], live) && all(v.more, live)
}

// count counts the reads of the keys, now that they have been. One sample of many is
// noted by key.
func (v *localView) count(sample bool) {
	for _, seen := range [2][]sight{v.few[:v.n], v.more} {
		for i := range seen {
			seen[i].of.countRead()
			if sample {
				v.cache.count.hot.note(seen[i].of.key)
			}
		}
	}
}

func all(seen []sight, ok func(sight) bool) bool {
	for _, s := range seen {
		if !ok(s) {
			return false
		}
	}
	return true
}

// txnReply is a reply to a transaction in one piece of memory, less the replies
// to its operations.
type txnReply struct {
	resp etcdserverpb.TxnResponse
	hdr  etcdserverpb.ResponseHeader
	few  [4]*etcdserverpb.ResponseOp
}

// opReply is the reply to one get of a transaction.
type opReply struct {
	op   etcdserverpb.ResponseOp
	wrap etcdserverpb.ResponseOp_ResponseRange
	rangeReply
	text [smallText]byte
}

// smallTxnReply is a reply to a transaction of few operations, with the replies to
// these, in one piece of memory.
type smallTxnReply struct {
	txnReply
	ops [2]opReply
}

// txn decides and answers a transaction from the view. It is nil if something
// is not in the view, or would be written.
//
// Invariant: I11.
func (v *localView) txn(cmps []clientv3.Cmp, then, els []clientv3.Op) *etcdserverpb.TxnResponse {
	succeeded := true
	for i := range cmps {
		c := cmps[i].GetCompare()
		if len(c.RangeEnd) > 0 {
			return nil
		}
		s := v.load(c.Key)
		if s == nil {
			return nil
		}
		succeeded = succeeded && holds(c, s)
	}
	if !succeeded {
		then = els
	}
	r, room := newTxnReply(len(then))
	r.resp.Header, r.resp.Succeeded = &r.hdr, succeeded
	if len(then) > 0 {
		r.resp.Responses = append(r.few[:0], make([]*etcdserverpb.ResponseOp, len(then))...)
	}
	for i := range then {
		var own *opReply
		if i < len(room) {
			own = &room[i]
		}
		if r.resp.Responses[i] = v.answer(&then[i], own); r.resp.Responses[i] == nil {
			return nil
		}
	}
	return &r.resp
}

// newTxnReply returns a reply for n operations, and room for the replies to these if
// they are few.
func newTxnReply(n int) (*txnReply, []opReply) {
	if n > len(smallTxnReply{}.ops) {
		return new(txnReply), nil
	}
	r := new(smallTxnReply)
	return &r.txnReply, r.ops[:]
}

// answer answers an operation, in r if that is not nil. It is nil if the operation needs
// etcd.
func (v *localView) answer(op *clientv3.Op, r *opReply) *etcdserverpb.ResponseOp {
	if op.IsTxn() {
		if t := v.txn(op.Txn()); t != nil {
			return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseTxn{ResponseTxn: t}}
		}
		return nil
	}
	if !isPoint(op) {
		return nil
	}
	s := v.load(op.KeyBytes())
	if s == nil {
		return nil
	}
	if r == nil {
		r = new(opReply)
	}
	fill(&r.rangeReply, r.text[:], shapeOf(op), op.KeyBytes(), s)
	r.wrap.ResponseRange = &r.resp
	r.op.Response = &r.wrap
	return &r.op
}

// setRevisions gives the inner replies the revision that the server would.
func setRevisions(resps []*etcdserverpb.ResponseOp, rev int64) {
	for _, r := range resps {
		if t := r.GetResponseTxn(); t != nil {
			setRevisions(t.Responses, rev)
		} else {
			r.GetResponseRange().Header.Revision = rev
		}
	}
}

// wellFormed reports whether etcd would surely take the transaction, whichever
// branches it takes. What is doubtful is left to etcd to judge.
func wellFormed(l layout, maxOps int, cmps []clientv3.Cmp, then, els []clientv3.Op) bool {
	f := former{layout: l}
	return weight(cmps, then, els) <= maxOps && f.wellFormed(cmps, then) && f.wellFormed(nil, els)
}

// former is what wellFormed has seen so far of a transaction.
type former struct {
	layout  layout
	written map[string]bool // nil if nothing is
	size    int             // of the keys and values
}

func (f *former) wellFormed(cmps []clientv3.Cmp, ops []clientv3.Op) bool {
	for i := range cmps {
		if len(cmps[i].KeyBytes()) == 0 {
			return false
		}
		f.size += len(cmps[i].KeyBytes()) + len(cmps[i].ValueBytes())
	}
	for i := range ops {
		op := &ops[i]
		f.size += len(op.KeyBytes()) + len(op.ValueBytes())
		switch {
		case op.IsTxn():
			cmps, then, els := op.Txn()
			if !f.wellFormed(cmps, then) || !f.wellFormed(nil, els) {
				return false
			}
		case len(op.KeyBytes()) == 0 || !op.IsSortOptionValid():
			return false
		case op.IsGet():
		case len(op.RangeBytes()) > 0 || f.written[string(op.KeyBytes())]:
			return false // it may overlap with another write
		case f.layout.reserved(string(op.KeyBytes())):
			return false // Invariant: I13.
		case op.IsPut() && !validPut(*op):
			return false
		default:
			if f.written == nil {
				f.written = make(map[string]bool)
			}
			f.written[string(op.KeyBytes())] = true
		}
	}
	return f.size <= 1<<20 // a larger one may be larger than etcd takes
}

// validPut reports whether the options of a put go together. An operation does
// not tell all of them, but the request that the client makes of it does.
func validPut(op clientv3.Op) bool {
	var r putReader
	_, _ = clientv3.NewKVFromKVClient(&r, nil).Do(context.Background(), op)
	return !(r.put.IgnoreValue && len(r.put.Value) > 0) && !(r.put.IgnoreLease && r.put.Lease != 0)
}

// putReader is an etcdserverpb.KVClient that only looks at puts.
type putReader struct {
	etcdserverpb.KVClient
	put *etcdserverpb.PutRequest
}

func (r *putReader) Put(_ context.Context, in *etcdserverpb.PutRequest, _ ...grpc.CallOption) (*etcdserverpb.PutResponse, error) {
	r.put = in
	return &etcdserverpb.PutResponse{}, nil
}
