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
	v := &localView{cache: kv.cache, rev: kv.cache.seen.Load()}
	r := v.txn(cmps, then, els)
	if r == nil || kv.cache.ident.Load() == nil || !wellFormed(kv.layout, kv.maxOps, cmps, then, els) {
		return nil
	}
	if !v.unchanged() || !v.live(time.Now()) {
		return nil
	}
	setHeader(r.Header, kv.cache.ident.Load(), v.rev)
	setRevisions(r.Responses, v.rev)
	return (*clientv3.TxnResponse)(r)
}

// localView is a consistent look at several owned keys.
type localView struct {
	cache *cache
	keys  []string
	snaps []*snapshot
	rev   int64 // the reply's header revision
}

func (v *localView) load(key []byte) *snapshot {
	for i, k := range v.keys {
		if k == string(key) {
			return v.snaps[i]
		}
	}
	s := v.cache.lookup(string(key))
	if s != nil {
		v.keys, v.snaps = append(v.keys, string(key)), append(v.snaps, s)
		v.rev = max(v.rev, s.rev)
	}
	return s
}

// unchanged reports whether all keys still are as they were loaded.
func (v *localView) unchanged() bool {
	for i, key := range v.keys {
		if v.cache.lookup(key) != v.snaps[i] {
			return false
		}
	}
	return true
}

// live reports whether every lease that the keys depend on is live.
func (v *localView) live(now time.Time) bool {
	for _, s := range v.snaps {
		if !s.lease.live(now) {
			return false
		}
	}
	return true
}

// txn decides and answers a transaction from the view. It is nil if something
// is not in the view, or would be written.
//
// Invariant: I11.
func (v *localView) txn(cmps []clientv3.Cmp, then, els []clientv3.Op) *etcdserverpb.TxnResponse {
	r := &etcdserverpb.TxnResponse{Header: &etcdserverpb.ResponseHeader{}, Succeeded: true}
	for i := range cmps {
		c := cmps[i].GetCompare()
		if len(c.RangeEnd) > 0 {
			return nil
		}
		s := v.load(c.Key)
		if s == nil {
			return nil
		}
		r.Succeeded = r.Succeeded && holds(c, s)
	}
	if !r.Succeeded {
		then = els
	}
	for _, op := range then {
		answer := v.answer(op)
		if answer == nil {
			return nil
		}
		r.Responses = append(r.Responses, answer)
	}
	return r
}

func (v *localView) answer(op clientv3.Op) *etcdserverpb.ResponseOp {
	if op.IsTxn() {
		if r := v.txn(op.Txn()); r != nil {
			return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseTxn{ResponseTxn: r}}
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
	r := shapeOf(op).reply(string(op.KeyBytes()), s)
	return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: &r.resp}}
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
	f := former{layout: l, written: make(map[string]bool)}
	return weight(cmps, then, els) <= maxOps && f.wellFormed(cmps, then) && f.wellFormed(nil, els)
}

// former is what wellFormed has seen so far of a transaction.
type former struct {
	layout  layout
	written map[string]bool
	size    int // of the keys and values
}

func (f *former) wellFormed(cmps []clientv3.Cmp, ops []clientv3.Op) bool {
	for i := range cmps {
		if len(cmps[i].KeyBytes()) == 0 {
			return false
		}
		f.size += len(cmps[i].KeyBytes()) + len(cmps[i].ValueBytes())
	}
	for _, op := range ops {
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
		case op.IsPut() && !validPut(op):
			return false
		default:
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
