package proxy

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// router sends what the leasing KV's session sends of its own, which bears a mark,
// with the proxy's credentials, and everything else with those of the caller that it
// is for. No request bears both: gRPC would send the proxy's first, and etcd take
// those.
type router struct{ own, pass pb.KVClient }

var _ pb.KVClient = router{}

func (r router) to(ctx context.Context) pb.KVClient {
	if ofSession(ctx) {
		return r.own
	}
	note(ctx)
	return r.pass
}

func (r router) Range(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	return r.to(ctx).Range(ctx, in, opts...)
}

func (r router) RangeStream(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	return r.to(ctx).RangeStream(ctx, in, opts...)
}

func (r router) Put(ctx context.Context, in *pb.PutRequest, opts ...grpc.CallOption) (*pb.PutResponse, error) {
	return r.to(ctx).Put(ctx, in, opts...)
}

func (r router) DeleteRange(ctx context.Context, in *pb.DeleteRangeRequest, opts ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return r.to(ctx).DeleteRange(ctx, in, opts...)
}

// settleTimeout is how long etcd may take to tell what became of a write whose caller has
// left.
const settleTimeout = 2 * time.Second

// Txn waits for etcd's answer although the caller may leave. A write whose outcome is
// unknown costs the keys that it names their owner (I6), so whoever has no right to
// any of them could take them from memory by writing and leaving at once.
func (r router) Txn(ctx context.Context, in *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	kv := r.to(ctx)
	if !ofSession(ctx) {
		var end func()
		ctx, end = outlive(ctx, settleTimeout)
		defer end()
	}
	return kv.Txn(ctx, in, opts...)
}

func (r router) Compact(ctx context.Context, in *pb.CompactionRequest, opts ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return r.to(ctx).Compact(ctx, in, opts...)
}
