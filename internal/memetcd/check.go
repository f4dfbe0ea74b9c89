package memetcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// This file holds what a server finds wrong with a request before it looks at its data.

func checkRange(r *pb.RangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if _, ok := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	if _, ok := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkRangeStream(r *pb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	if !inKeyOrder(r) {
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	}
	if hasFilter(r) {
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDelete(r *pb.DeleteRangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkTxn checks a whole transaction, nested ones included.
func checkTxn(r *pb.TxnRequest, maxOps int) error {
	if err := checkTxnOps(r, maxOps); err != nil {
		return err
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if _, err := checkOverlap(ops); err != nil {
			return err
		}
	}
	return nil
}

// checkTxnOps checks each operation, and that no list of the transaction is longer than maxOps. The
// longest list is taken off what nested transactions may have.
func checkTxnOps(r *pb.TxnRequest, maxOps int) error {
	longest := max(len(r.Compare), len(r.Success), len(r.Failure))
	if longest > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if err := checkOp(op, maxOps-longest); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch v := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(v.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(v.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDelete(v.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkTxnOps(v.RequestTxn, maxOps)
	default:
		return rpctypes.ErrGRPCKeyNotFound // etcd's answer to an empty operation
	}
}

// writeSet is what a list of operations may write.
type writeSet struct {
	puts map[string]bool
	dels []keyRange
}

func (w *writeSet) put(key string) error {
	if w.puts[key] || w.deletes(key) {
		return rpctypes.ErrGRPCDuplicateKey
	}
	w.puts[key] = true
	return nil
}

func (w *writeSet) deletes(key string) bool {
	for _, r := range w.dels {
		if r.contains(key) {
			return true
		}
	}
	return false
}

// checkOverlap refuses a key that is put twice, or put and deleted, unless the two are in different
// branches. It finds what etcd finds, which is not all there is: a deletion with an open end overlaps
// nothing, and a nested put is compared with the deletions of earlier siblings, not of later ones.
func checkOverlap(ops []*pb.RequestOp) (writeSet, error) {
	w := writeSet{puts: make(map[string]bool)}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			if r := requestRange(d.Key, d.RangeEnd); !r.open {
				w.dels = append(w.dels, r)
			}
		}
	}
	for _, op := range ops {
		if t := op.GetRequestTxn(); t != nil {
			if err := w.addTxn(t); err != nil {
				return w, err
			}
		}
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if err := w.put(string(p.Key)); err != nil {
				return w, err
			}
		}
	}
	return w, nil
}

// addTxn adds a nested transaction. Its branches exclude each other, so both may put the same key.
func (w *writeSet) addTxn(t *pb.TxnRequest) error {
	then, err := checkOverlap(t.Success)
	if err != nil {
		return err
	}
	otherwise, err := checkOverlap(t.Failure)
	if err != nil {
		return err
	}
	for key := range then.puts {
		if err := w.put(key); err != nil {
			return err
		}
	}
	for key := range otherwise.puts {
		if then.puts[key] {
			continue
		}
		if err := w.put(key); err != nil {
			return err
		}
	}
	w.dels = append(append(w.dels, then.dels...), otherwise.dels...)
	return nil
}

// checkSize refuses a request whose raft entry would be too large. etcd's entries bear a request id of
// nine or ten bytes, so at the very limit it may decide otherwise.
func checkSize(entry *pb.InternalRaftRequest, maxBytes int) error {
	entry.Header = &pb.RequestHeader{ID: 1 << 63}
	if proto.Size(entry) > maxBytes {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

// mayPut reports whether a put stands in any branch: such a transaction needs space.
func mayPut(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if op.GetRequestPut() != nil {
				return true
			}
			if t := op.GetRequestTxn(); t != nil && mayPut(t) {
				return true
			}
		}
	}
	return false
}

// readOnly reports whether all operations are ranges. A nested transaction counts as a write.
func readOnly(r *pb.TxnRequest) bool {
	return allRanges(r, func(*pb.RangeRequest) bool { return true })
}

// serializable reports whether the member may answer by itself. So it is if there are no operations.
func serializable(r *pb.TxnRequest) bool {
	return allRanges(r, func(rr *pb.RangeRequest) bool { return rr.Serializable })
}

func allRanges(r *pb.TxnRequest, ok func(*pb.RangeRequest) bool) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if rr := op.GetRequestRange(); rr == nil || !ok(rr) {
				return false
			}
		}
	}
	return true
}
