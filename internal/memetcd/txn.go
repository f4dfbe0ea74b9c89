package memetcd

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// plan is a transaction whose comparisons are decided: which operations are to be done, and the plans
// of the nested transactions among them. Everything is decided before anything is done.
type plan struct {
	succeeded bool
	ops       []*pb.RequestOp
	nested    []*plan // one for each nested transaction in ops, in order
}

func decide(v view, r *pb.TxnRequest) *plan {
	p := &plan{succeeded: true, ops: r.Success}
	for _, c := range r.Compare {
		if !holds(v, c) {
			p.succeeded, p.ops = false, r.Failure
			break
		}
	}
	for _, op := range p.ops {
		if t := op.GetRequestTxn(); t != nil {
			p.nested = append(p.nested, decide(v, t))
		}
	}
	return p
}

// holds decides one comparison, which must hold for every key in its range. An absent key compares as
// zero, except that no comparison with its value holds.
func holds(v view, c *pb.Compare) bool {
	kvs := v.list(requestRange(c.Key, c.RangeEnd), v.rev)
	if len(kvs) == 0 {
		if c.Target == pb.Compare_VALUE {
			return false
		}
		kvs = []*mvccpb.KeyValue{{}}
	}
	for _, kv := range kvs {
		if !matches(c, kv) {
			return false
		}
	}
	return true
}

func matches(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	var order int
	switch c.Target {
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	case pb.Compare_LESS:
		return order < 0
	}
	return true // as etcd answers an operator that it does not know
}

// check looks for what would make an operation fail, in the state before the transaction.
func (p *plan) check(v view, leases *lessor) error {
	nested := p.nested
	for _, op := range p.ops {
		var err error
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			err = checkTxnRevision(v, r.RequestRange.Revision)
		case *pb.RequestOp_RequestPut:
			err = checkPutState(v, leases, r.RequestPut)
		case *pb.RequestOp_RequestTxn:
			err = nested[0].check(v, leases)
			nested = nested[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkTxnRevision is stricter with negative revisions than a plain range, which takes them for 0.
func checkTxnRevision(v view, rev int64) error {
	switch {
	case rev == 0:
		return nil
	case rev > v.rev:
		return rpctypes.ErrGRPCFutureRev
	case rev < v.compacted:
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

// do carries the plan out. The header of a nested transaction stays empty, those of operations have
// nothing but a revision.
func (p *plan) do(w *writer, leases *lessor) *pb.TxnResponse {
	resp := &pb.TxnResponse{
		Header:    &pb.ResponseHeader{},
		Succeeded: p.succeeded,
		Responses: make([]*pb.ResponseOp, len(p.ops)),
	}
	nested := p.nested
	for i, op := range p.ops {
		out := new(pb.ResponseOp)
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			rr, err := rangeKeys(w.view(), r.RequestRange)
			if err != nil {
				panic("memetcd: a range failed that had been checked: " + err.Error())
			}
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: rr}
		case *pb.RequestOp_RequestPut:
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: put(w, leases, r.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: deleteRange(w, leases, r.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: nested[0].do(w, leases)}
			nested = nested[1:]
		}
		resp.Responses[i] = out
	}
	return resp
}

// doTxn decides, checks and does a transaction. The caller commits.
func doTxn(w *writer, leases *lessor, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	v := w.view()
	p := decide(v, r)
	if err := p.check(v, leases); err != nil {
		return nil, err
	}
	resp := p.do(w, leases)
	resp.Header.Revision = w.rev()
	return resp, nil
}
