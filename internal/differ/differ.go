// Package differ makes random operations of a clientv3.KV that can be done to
// two stores, so that what a KV answers can be compared with what a plain client
// does. It covers every operation and every option, and what etcd refuses.
//
// The two stores are to hold the same data, but not at the same revisions, as
// only one of them has claims, nor under the same leases. So an operation is
// made without either: a [Side] fills them in.
package differ

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Side is one of the two stores.
type Side interface {
	// Actual returns the revision of the nth change of data; n itself if it is
	// not positive, and a revision to come if there was no such change yet.
	Actual(n int64) int64
	// Lease returns lease i, counted in the order in which they were granted;
	// one that does not exist if there are fewer.
	Lease(i int) clientv3.LeaseID
}

// Op is an operation for either side.
type Op struct {
	kind      kind
	key, val  string
	opts      []option
	cmps      []func(Side) clientv3.Cmp
	then, els []Op
}

type kind uint8

const (
	get kind = iota
	put
	del
	txn
)

// option is an option of an operation, for either side.
type option = func(Side) clientv3.OpOption

// fixed is an option that is the same for both sides.
func fixed(opt clientv3.OpOption) option { return func(Side) clientv3.OpOption { return opt } }

// IsGet reports whether op is a single get.
func (op Op) IsGet() bool { return op.kind == get }

// ReadOnly reports whether op writes nothing in any branch.
func (op Op) ReadOnly() bool {
	for _, list := range [][]Op{op.then, op.els} {
		for _, o := range list {
			if !o.ReadOnly() {
				return false
			}
		}
	}
	return op.kind == get || op.kind == txn
}

func (op Op) options(s Side) (opts []clientv3.OpOption) {
	for _, o := range op.opts {
		opts = append(opts, o(s))
	}
	return opts
}

func (op Op) comparisons(s Side) (cmps []clientv3.Cmp) {
	for _, c := range op.cmps {
		cmps = append(cmps, c(s))
	}
	return cmps
}

func all(ops []Op, s Side) (out []clientv3.Op) {
	for _, o := range ops {
		out = append(out, o.For(s))
	}
	return out
}

// For returns the operation for a side.
func (op Op) For(s Side) clientv3.Op {
	switch op.kind {
	case get:
		return clientv3.OpGet(op.key, op.options(s)...)
	case put:
		return clientv3.OpPut(op.key, op.val, op.options(s)...)
	case del:
		return clientv3.OpDelete(op.key, op.options(s)...)
	}
	return clientv3.OpTxn(op.comparisons(s), all(op.then, s), all(op.els, s))
}

// Call does the operation to a side by the method of kv that is made for it,
// where Do would be another way.
func (op Op) Call(ctx context.Context, kv clientv3.KV, s Side) (any, error) {
	switch op.kind {
	case get:
		return kv.Get(ctx, op.key, op.options(s)...)
	case put:
		return kv.Put(ctx, op.key, op.val, op.options(s)...)
	case del:
		return kv.Delete(ctx, op.key, op.options(s)...)
	}
	return kv.Txn(ctx).If(op.comparisons(s)...).Then(all(op.then, s)...).Else(all(op.els, s)...).Commit()
}

// Stream does a get by GetStream.
func (op Op) Stream(ctx context.Context, kv clientv3.KV, s Side) (*clientv3.GetResponse, error) {
	stream, err := kv.GetStream(ctx, op.key, op.options(s)...)
	if err != nil {
		return nil, err
	}
	return clientv3.GetStreamToGetResponse(stream)
}

// Text returns the request that a client makes of the operation for a side.
func (op Op) Text(s Side) string {
	var n note
	_, _ = clientv3.NewKVFromKVClient(&n, nil).Do(context.Background(), op.For(s))
	return fmt.Sprintf("%T %v", n.req, n.req)
}

// note is the server's end of a client: it keeps the request.
type note struct {
	pb.KVClient
	req proto.Message
}

func (n *note) Range(_ context.Context, r *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	n.req = r
	return &pb.RangeResponse{}, nil
}

func (n *note) Put(_ context.Context, r *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	n.req = r
	return &pb.PutResponse{}, nil
}

func (n *note) DeleteRange(_ context.Context, r *pb.DeleteRangeRequest, _ ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	n.req = r
	return &pb.DeleteRangeResponse{}, nil
}

func (n *note) Txn(_ context.Context, r *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	n.req = r
	return &pb.TxnResponse{}, nil
}
