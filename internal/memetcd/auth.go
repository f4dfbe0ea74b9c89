package memetcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// rights is what one client may do, by the function that the test gave (see [Conn.Deny]); nil allows
// everything. The methods check what etcd checks for a user without the root role, in the same order.
type rights func(key, end []byte, write bool) bool

func (deny rights) read(key, end []byte) error {
	if deny != nil && deny(key, end, false) {
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

func (deny rights) write(key, end []byte) error {
	if deny != nil && deny(key, end, true) {
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

// admin refuses everybody who has any restriction.
func (deny rights) admin() error {
	if deny != nil {
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

// put needs the right to write all keys of the lease too, since the lease can delete this one later.
func (deny rights) put(leases *lessor, r *pb.PutRequest) error {
	if err := deny.write(r.Key, nil); err != nil {
		return err
	}
	if err := deny.writeLease(leases.get(r.Lease)); err != nil {
		return err
	}
	if r.PrevKv {
		return deny.read(r.Key, nil)
	}
	return nil
}

func (deny rights) deleteRange(r *pb.DeleteRangeRequest) error {
	if r.PrevKv {
		if err := deny.read(r.Key, r.RangeEnd); err != nil {
			return err
		}
	}
	return deny.write(r.Key, r.RangeEnd)
}

// txn checks both branches, whichever will be taken.
func (deny rights) txn(leases *lessor, r *pb.TxnRequest) error {
	for _, c := range r.Compare {
		if err := deny.read(c.Key, c.RangeEnd); err != nil {
			return err
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if err := deny.op(leases, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (deny rights) op(leases *lessor, op *pb.RequestOp) error {
	switch r := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return deny.read(r.RequestRange.Key, r.RequestRange.RangeEnd)
	case *pb.RequestOp_RequestPut:
		return deny.put(leases, r.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return deny.deleteRange(r.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return deny.txn(leases, r.RequestTxn)
	}
	return nil
}

// writeLease is needed to revoke a lease, to renew it, and to hang a key on it.
func (deny rights) writeLease(le *lease) error {
	if deny == nil || le == nil {
		return nil
	}
	for _, key := range le.sortedKeys() {
		if err := deny.write([]byte(key), nil); err != nil {
			return err
		}
	}
	return nil
}

// readLease is needed to be told the lease's keys.
func (deny rights) readLease(le *lease) error {
	if deny == nil || le == nil {
		return nil
	}
	for _, key := range le.sortedKeys() {
		if err := deny.read([]byte(key), nil); err != nil {
			return err
		}
	}
	return nil
}
