package leasing

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// clause is a transaction of the session's own: a claim, a yield or a revoke.
// Many of them go into one request, and so into one raft entry.
type clause struct {
	cmps      []clientv3.Cmp
	then, els []clientv3.Op
}

func (c *clause) op() clientv3.Op { return clientv3.OpTxn(c.cmps, c.then, c.els) }

// batchReply is the answer to a batch: one for each of its clauses.
type batchReply struct {
	header *etcdserverpb.ResponseHeader
	txns   []*etcdserverpb.TxnResponse
}

// send sends clauses in one request, which ends with ctx, or after the timeout if that
// is not zero. If all of them are expected to hold, it tries that first, which costs
// etcd less: a nested transaction is nearly as dear as one of its own.
//
// Invariant: I3. Only if all of them were refused is each sent for itself.
func (s *session) send(ctx context.Context, timeout time.Duration, clauses []clause, all bool) (*batchReply, error) {
	n := len(clauses)
	if all || n == 1 {
		resp, err := s.carryOut(ctx, timeout, join(clauses))
		switch {
		case err != nil:
			return nil, err
		case n == 1:
			return &batchReply{resp.Header, []*etcdserverpb.TxnResponse{(*etcdserverpb.TxnResponse)(resp)}}, nil
		case resp.Succeeded:
			return allHeld(clauses, resp), nil
		}
	}
	ops := make([]clientv3.Op, n)
	for i := range ops {
		ops[i] = clauses[i].op()
	}
	resp, err := s.carryOut(ctx, timeout, clause{then: ops})
	if err != nil {
		return nil, err
	}
	r := &batchReply{header: resp.Header, txns: make([]*etcdserverpb.TxnResponse, n)}
	for i, t := range resp.Responses {
		r.txns[i] = t.GetResponseTxn()
	}
	return r, nil
}

func (s *session) carryOut(ctx context.Context, timeout time.Duration, c clause) (*clientv3.TxnResponse, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return s.kv.Txn(ctx).If(c.cmps...).Then(c.then...).Else(c.els...).Commit()
}

// join makes one clause of several, which are carried out if all of them hold. What
// each does otherwise is left out, unless there is only one.
func join(clauses []clause) (all clause) {
	if len(clauses) == 1 {
		return clauses[0]
	}
	for i := range clauses {
		all.cmps, all.then = append(all.cmps, clauses[i].cmps...), append(all.then, clauses[i].then...)
	}
	return all
}

// allHeld divides the reply to joined clauses that were carried out.
func allHeld(clauses []clause, resp *clientv3.TxnResponse) *batchReply {
	r := &batchReply{header: resp.Header, txns: make([]*etcdserverpb.TxnResponse, len(clauses))}
	rest := resp.Responses
	for i := range clauses {
		n := len(clauses[i].then)
		r.txns[i] = &etcdserverpb.TxnResponse{Succeeded: true, Responses: rest[:n:n]}
		rest = rest[n:]
	}
	return r
}
