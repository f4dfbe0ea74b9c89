package proxy

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// router sends what the leasing KV sends for a caller with that caller's
// credentials, and what its session sends of its own with the proxy's. No request
// bears both: gRPC would send the proxy's first, and etcd take those.
type router struct{ own, pass pb.KVClient }

var _ pb.KVClient = router{}

func (r router) to(ctx context.Context) pb.KVClient {
	if !forCaller(ctx) {
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

func (r router) Txn(ctx context.Context, in *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	return r.to(ctx).Txn(ctx, in, opts...)
}

func (r router) Compact(ctx context.Context, in *pb.CompactionRequest, opts ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return r.to(ctx).Compact(ctx, in, opts...)
}
