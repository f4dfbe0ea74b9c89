package memetcd

import (
	"context"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// remote is the gRPC side of a client: what clientv3 calls.
type remote struct{ conn *Conn }

var (
	_ pb.KVClient    = (*remote)(nil)
	_ pb.LeaseClient = (*remote)(nil)
	_ pb.WatchClient = (*remote)(nil)
)

func (r *remote) Range(ctx context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	return repeat[*pb.RangeResponse](ctx, r.conn, MethodRange, in)
}

func (r *remote) Put(ctx context.Context, in *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	return once[*pb.PutResponse](ctx, r.conn, MethodPut, in)
}

func (r *remote) DeleteRange(ctx context.Context, in *pb.DeleteRangeRequest, _ ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return once[*pb.DeleteRangeResponse](ctx, r.conn, MethodDeleteRange, in)
}

func (r *remote) Txn(ctx context.Context, in *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	return once[*pb.TxnResponse](ctx, r.conn, MethodTxn, in)
}

func (r *remote) Compact(ctx context.Context, in *pb.CompactionRequest, _ ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return once[*pb.CompactionResponse](ctx, r.conn, MethodCompact, in)
}

func (r *remote) LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, _ ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	return repeat[*pb.LeaseGrantResponse](ctx, r.conn, MethodLeaseGrant, in)
}

func (r *remote) LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, _ ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
	return repeat[*pb.LeaseRevokeResponse](ctx, r.conn, MethodLeaseRevoke, in)
}

func (r *remote) LeaseTimeToLive(ctx context.Context, in *pb.LeaseTimeToLiveRequest, _ ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
	return repeat[*pb.LeaseTimeToLiveResponse](ctx, r.conn, MethodLeaseTimeToLive, in)
}

func (r *remote) LeaseLeases(ctx context.Context, in *pb.LeaseLeasesRequest, _ ...grpc.CallOption) (*pb.LeaseLeasesResponse, error) {
	return repeat[*pb.LeaseLeasesResponse](ctx, r.conn, MethodLeaseLeases, in)
}

func (r *remote) LeaseKeepAlive(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse], error) {
	st, err := r.conn.open(ctx, MethodLeaseKeepAlive)
	if err != nil {
		return nil, err
	}
	c := r.conn
	st.run(func(ctx context.Context, req proto.Message) (proto.Message, error) {
		return c.srv.serve(ctx, c, MethodLeaseKeepAlive, req)
	}, func() {})
	return typedStream[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]{st}, nil
}

func (r *remote) Watch(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[pb.WatchRequest, pb.WatchResponse], error) {
	st, err := r.conn.open(ctx, MethodWatch)
	if err != nil {
		return nil, err
	}
	send := func(resp *pb.WatchResponse) {
		st.in.push(item{msg: overWire(resp), due: st.conn.watchDue()})
	}
	ws := r.conn.srv.newWatchStream(r.conn, send)
	st.run(func(_ context.Context, req proto.Message) (proto.Message, error) {
		ws.handle(req.(*pb.WatchRequest))
		return nil, nil
	}, func() { r.conn.srv.removeStream(ws) })
	return typedStream[pb.WatchRequest, pb.WatchResponse]{st}, nil
}

// once sends a request that must not be repeated.
func once[M proto.Message](ctx context.Context, c *Conn, m Method, req proto.Message) (M, error) {
	msg, err := c.call(ctx, m, req)
	if err != nil {
		var none M
		return none, err
	}
	return msg.(M), nil
}

// repeat sends a request again while it fails as unavailable, if the server's options say so.
func repeat[M proto.Message](ctx context.Context, c *Conn, m Method, req proto.Message) (M, error) {
	for attempt := 1; ; attempt++ {
		msg, err := once[M](ctx, c, m, req)
		if !c.srv.opts.Retry || attempt == 100 || status.Code(err) != codes.Unavailable {
			return msg, err
		}
		t := time.NewTimer(25 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return msg, endOf(ctx)
		}
	}
}

// RangeStream sends its request with the first Recv.
func (r *remote) RangeStream(ctx context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[pb.RangeStreamResponse], error) {
	return &rangeStream{conn: r.conn, ctx: ctx, req: overWire(in).(*pb.RangeRequest)}, nil
}

// rangeStream is the client's end of a range that comes in pieces.
type rangeStream struct {
	grpc.ClientStream // nil: clientv3 uses nothing of it
	conn              *Conn
	ctx               context.Context
	req               *pb.RangeRequest // nil once sent
	chunks            []*pb.RangeResponse
}

func (s *rangeStream) Recv() (*pb.RangeStreamResponse, error) {
	if s.req != nil {
		resp, err := once[*pb.RangeResponse](s.ctx, s.conn, MethodRangeStream, s.req)
		if err != nil {
			return nil, err
		}
		s.req = nil
		s.chunks = cutRange(resp, s.conn.srv.opts.MaxRequestBytes)
	}
	if len(s.chunks) == 0 {
		return nil, io.EOF
	}
	chunk := s.chunks[0]
	s.chunks = s.chunks[1:]
	return &pb.RangeStreamResponse{RangeResponse: chunk}, nil
}

// cutRange cuts a reply as etcd does: ten keys first, then twice as many each time while the pieces
// stay well below the size of a request. Only the last piece has a header and a count.
func cutRange(resp *pb.RangeResponse, target int) []*pb.RangeResponse {
	var chunks []*pb.RangeResponse
	for n := 10; len(resp.Kvs) > n; {
		chunk := &pb.RangeResponse{Kvs: resp.Kvs[:n:n]}
		chunks = append(chunks, chunk)
		resp.Kvs = resp.Kvs[n:]
		switch size := proto.Size(chunk); {
		case size < target/2:
			n *= 2
		case size > target*2:
			n = max(n/2, 1)
		}
	}
	return append(chunks, &pb.RangeResponse{
		Header: resp.Header,
		Kvs:    append([]*mvccpb.KeyValue(nil), resp.Kvs...),
		More:   resp.More,
		Count:  resp.Count,
	})
}
