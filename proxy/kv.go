package proxy

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/proxy/internal/stream"
)

// kvServer is etcd's KV service on a leasing KV. It answers nobody from memory whom
// etcd would refuse, within the bound on rights.
type kvServer struct {
	cached, uncached clientv3.KV // of clients' keys
	raw              pb.KVClient // of etcd's
	space            namespace
	rights           *rights
	anonymous        *anonymous
	maxOps           int // of a transaction

	pb.UnsafeKVServer
}

var _ pb.KVServer = (*kvServer)(nil)

func (s *kvServer) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	resp, err := s.do(ctx, rangeOp(r), s.leaveTo(ctx, r))
	return (*pb.RangeResponse)(resp.Get()), err
}

// rangeOp is grpcproxy.RangeRequestToOp, but quicker for what is asked for most: one key,
// as it is now.
func rangeOp(r *pb.RangeRequest) clientv3.Op {
	if proto.Size(r) == protowire.SizeTag(1)+protowire.SizeBytes(len(r.Key)) { // it holds nothing else
		return clientv3.OpGet(string(r.Key))
	}
	return grpcproxy.RangeRequestToOp(r)
}

// RangeStream reads from etcd, always.
func (s *kvServer) RangeStream(r *pb.RangeRequest, down pb.KV_RangeStreamServer) error {
	if err := checkRange(r); err != nil {
		return err
	}
	r.Key, r.RangeEnd = s.space.interval(r.Key, r.RangeEnd)
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	up, err := s.raw.RangeStream(ctx, r)
	if err != nil {
		return err
	}
	return stream.Copy(down, up, func(resp *pb.RangeStreamResponse) {
		for _, kv := range resp.GetRangeResponse().GetKvs() {
			kv.Key = s.space.strip(kv.Key)
		}
	})
}

func (s *kvServer) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	resp, err := s.do(ctx, grpcproxy.PutRequestToOp(r), s.leaveTo(ctx, nil))
	return (*pb.PutResponse)(resp.Put()), err
}

func (s *kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := checkKey(r.Key); err != nil {
		return nil, err
	}
	resp, err := s.do(ctx, grpcproxy.DelRequestToOp(r), s.leaveTo(ctx, nil))
	return (*pb.DeleteRangeResponse)(resp.Del()), err
}

func (s *kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := checkTxn(r, s.maxOps); err != nil {
		return nil, err
	}
	resp, err := s.do(ctx, grpcproxy.TxnRequestToOp(r), s.leaveTo(ctx, nil))
	return (*pb.TxnResponse)(resp.Txn()), err
}

func (s *kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	var opts []clientv3.CompactOption
	if r.Physical {
		opts = append(opts, clientv3.WithCompactPhysical())
	}
	resp, err := s.uncached.Compact(ctx, r.Revision, opts...)
	return (*pb.CompactionResponse)(resp), err
}

// maxOwnedKey is how long a key may be that is owned. Each that is read becomes a claim
// in etcd: who may only read would else write as much as etcd takes.
const maxOwnedKey = 4 << 10

// leaveTo returns whether the caller may be answered from memory. r is nil if it is
// not a read: who has a token may have only reads of single keys, as what etcd says
// to them is easy to remember.
func (s *kvServer) leaveTo(ctx context.Context, r *pb.RangeRequest) leave {
	token, ok := tokenOf(ctx)
	switch {
	case len(r.GetKey()) > maxOwnedKey:
		return never{}
	case !ok:
		return s.anonymous
	case r != nil && len(r.RangeEnd) == 0:
		return s.rights.to(token, r.Key)
	}
	return never{}
}

// do applies an operation of a caller's, from memory if it may.
//
// What was sent to etcd for it bore the caller's credentials, so that etcd has
// judged it. What was not was answered from memory, and the clock is read after
// that: the read happened at an instant before, and the caller's leave to it is
// younger then than the bound. Else it is done again, by etcd, which is safe, as
// nothing has been sent.
func (s *kvServer) do(ctx context.Context, op clientv3.Op, l leave) (clientv3.OpResponse, error) {
	c := &call{Context: ctx}
	begin := time.Now()
	if l.good(begin) {
		resp, err := s.cached.Do(c, op)
		switch {
		case c.sent.Load():
			judge(l, op, begin, err)
			return resp, err
		case err != nil || l.good(time.Now()):
			return resp, err
		}
		begin = time.Now()
	}
	resp, err := s.uncached.Do(c, op)
	judge(l, op, begin, err)
	return resp, err
}

// judge tells l what etcd said. That etcd served something shows a right only if a
// quorum was asked: a member that lags behind may not know yet that it was withdrawn.
func judge(l leave, op clientv3.Op, begin time.Time, err error) {
	if err != nil || op.IsGet() && !op.IsSerializable() {
		l.judged(begin, err)
	}
}
