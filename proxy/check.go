package proxy

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// The checks are those that etcd makes before anything else, of what a client may
// have sent by mistake or on purpose and Go's types do not rule out. Limits are for
// etcd to tell.

func checkKey(key []byte) error {
	if len(key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

func checkRange(r *pb.RangeRequest) error {
	_, order := pb.RangeRequest_SortOrder_name[int32(r.GetSortOrder())]
	_, target := pb.RangeRequest_SortTarget_name[int32(r.GetSortTarget())]
	if len(r.GetKey()) > 0 && !(order && target) {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return checkKey(r.GetKey())
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case r.GetIgnoreValue() && len(r.Value) > 0 && len(r.Key) > 0:
		return rpctypes.ErrGRPCValueProvided
	case r.GetIgnoreLease() && r.Lease != 0 && len(r.Key) > 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return checkKey(r.GetKey())
}

func checkTxn(r *pb.TxnRequest) error {
	for _, c := range r.GetCompare() {
		if err := checkKey(c.GetKey()); err != nil {
			return err
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			if err := checkOp(op); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp) error {
	switch r := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(r.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(r.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkKey(r.RequestDeleteRange.GetKey())
	case *pb.RequestOp_RequestTxn:
		return checkTxn(r.RequestTxn)
	}
	return rpctypes.ErrGRPCKeyNotFound // so etcd says to an operation that is none
}
