package memetcd

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// This file holds the operations on keys, as they are done when nothing is wrong with the request.

// rangeKeys answers a range from a view.
func rangeKeys(v view, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	at, err := v.revision(r.Revision)
	if err != nil {
		return nil, err
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: v.rev}}
	kvs := v.list(requestRange(r.Key, r.RangeEnd), at)
	resp.Count = int64(len(kvs)) // of the whole range: limit and filters do not count
	if r.CountOnly {
		return resp, nil
	}
	if limit := fetchLimit(r); limit > 0 && limit < int64(len(kvs)) {
		kvs = kvs[:limit]
	}
	if r.KeysOnly {
		kvs = withoutValues(kvs, r)
	}
	kvs = slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool { return filtered(kv, r) })
	sortKVs(kvs, r)
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs = kvs[:r.Limit]
		resp.More = true
	}
	if r.KeysOnly {
		for _, kv := range kvs {
			kv.Value = nil
		}
	}
	resp.Kvs = kvs
	return resp, nil
}

// revision is the revision that a read at rev reads.
func (v view) revision(rev int64) (int64, error) {
	switch {
	case rev > v.rev:
		return 0, rpctypes.ErrGRPCFutureRev
	case rev <= 0:
		return v.rev, nil
	case rev < v.compacted:
		return 0, rpctypes.ErrGRPCCompacted
	}
	return rev, nil
}

// fetchLimit is how many keys are looked at: one more than asked for, to know whether there are more,
// or all (0) if the wanted ones are not the first ones. A sort target without an order does not count
// as sorting here, though it sorts: etcd then sorts the first keys only.
func fetchLimit(r *pb.RangeRequest) int64 {
	if !inKeyOrder(r) || hasFilter(r) || r.Limit <= 0 {
		return 0
	}
	if r.Limit == math.MaxInt64 {
		return r.Limit
	}
	return r.Limit + 1
}

func inKeyOrder(r *pb.RangeRequest) bool {
	return r.SortOrder == pb.RangeRequest_NONE ||
		(r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND)
}

func hasFilter(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 ||
		r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

func filtered(kv *mvccpb.KeyValue, r *pb.RangeRequest) bool {
	return r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision ||
		r.MinModRevision != 0 && kv.ModRevision < r.MinModRevision ||
		r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision ||
		r.MinCreateRevision != 0 && kv.CreateRevision < r.MinCreateRevision
}

// withoutValues copies the keys for a keys-only range. Values stay until after sorting if it is them
// that are sorted by; then, and only then, etcd 3.7 reads the whole record and so returns the lease.
func withoutValues(kvs []*mvccpb.KeyValue, r *pb.RangeRequest) []*mvccpb.KeyValue {
	byValue := r.SortTarget == pb.RangeRequest_VALUE
	copies := make([]*mvccpb.KeyValue, len(kvs))
	for i, kv := range kvs {
		copies[i] = &mvccpb.KeyValue{
			Key:            kv.Key,
			CreateRevision: kv.CreateRevision,
			ModRevision:    kv.ModRevision,
			Version:        kv.Version,
		}
		if byValue {
			copies[i].Value, copies[i].Lease = kv.Value, kv.Lease
		}
	}
	return copies
}

// kvSorter sorts with package sort, not slices: equal elements must land where etcd's land.
type kvSorter struct {
	kvs     []*mvccpb.KeyValue
	compare func(a, b *mvccpb.KeyValue) int
}

func (s kvSorter) Len() int           { return len(s.kvs) }
func (s kvSorter) Swap(i, j int)      { s.kvs[i], s.kvs[j] = s.kvs[j], s.kvs[i] }
func (s kvSorter) Less(i, j int) bool { return s.compare(s.kvs[i], s.kvs[j]) < 0 }

func sortKVs(kvs []*mvccpb.KeyValue, r *pb.RangeRequest) {
	if r.SortTarget == pb.RangeRequest_KEY && r.SortOrder != pb.RangeRequest_DESCEND {
		return
	}
	var s sort.Interface = kvSorter{kvs, comparator(r.SortTarget)}
	if r.SortOrder == pb.RangeRequest_DESCEND {
		s = sort.Reverse(s)
	}
	sort.Sort(s)
}

func comparator(target pb.RangeRequest_SortTarget) func(a, b *mvccpb.KeyValue) int {
	switch target {
	case pb.RangeRequest_VERSION:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) }
	case pb.RangeRequest_CREATE:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) }
	case pb.RangeRequest_MOD:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) }
	case pb.RangeRequest_VALUE:
		return func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) }
	default:
		return func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) }
	}
}

// put checks nothing any more; see checkPutState.
func put(w *writer, leases *lessor, r *pb.PutRequest) *pb.PutResponse {
	key := string(r.Key)
	prev := w.view().current(key)
	value, lease := r.Value, r.Lease
	if (r.IgnoreValue || r.IgnoreLease) && prev == nil {
		panic("memetcd: put with ignore_value or ignore_lease after a deletion in its transaction: this kills an etcd server")
	}
	if r.IgnoreValue {
		value = prev.Value
	}
	if r.IgnoreLease {
		lease = prev.Lease
	}
	w.put(key, value, lease)
	leases.attach(key, prev.GetLease(), lease)
	resp := &pb.PutResponse{Header: &pb.ResponseHeader{Revision: w.rev()}}
	if r.PrevKv {
		resp.PrevKv = prev
	}
	return resp
}

// checkPutState tells what the state of the store has against a put.
func checkPutState(v view, leases *lessor, r *pb.PutRequest) error {
	if r.Lease != 0 && leases.get(r.Lease) == nil {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	if (r.IgnoreValue || r.IgnoreLease) && v.current(string(r.Key)) == nil {
		return rpctypes.ErrGRPCKeyNotFound
	}
	return nil
}

func (v view) current(key string) *mvccpb.KeyValue { return v.get(key, v.rev) }

func deleteRange(w *writer, leases *lessor, r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	v := w.view()
	kvs := v.list(requestRange(r.Key, r.RangeEnd), v.rev)
	for _, kv := range kvs {
		w.delete(string(kv.Key))
		leases.attach(string(kv.Key), kv.Lease, 0)
	}
	resp := &pb.DeleteRangeResponse{
		Header:  &pb.ResponseHeader{Revision: w.rev()},
		Deleted: int64(len(kvs)),
	}
	if r.PrevKv {
		resp.PrevKvs = kvs
	}
	return resp
}
