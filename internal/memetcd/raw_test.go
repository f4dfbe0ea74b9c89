package memetcd

import (
	"errors"
	"fmt"
	"io"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// This file sends what clientv3 does not let through.

func TestSort(t *testing.T) {
	_, cli, conn := newClient(t, Options{})
	ctx := t.Context()
	for _, kv := range [][2]string{{"a", "1"}, {"b", "3"}, {"c", "2"}, {"b", "0"}, {"a", "5"}, {"a", "4"}} {
		must(cli.Put(ctx, kv[0], kv[1]))(t)
	}
	for target, want := range map[pb.RangeRequest_SortTarget]string{
		pb.RangeRequest_KEY: "abc", pb.RangeRequest_VERSION: "cba", pb.RangeRequest_CREATE: "abc",
		pb.RangeRequest_MOD: "cba", pb.RangeRequest_VALUE: "bca",
	} {
		for _, order := range []pb.RangeRequest_SortOrder{pb.RangeRequest_NONE, pb.RangeRequest_ASCEND, pb.RangeRequest_DESCEND} {
			resp := must(conn.KVClient().Range(ctx, &pb.RangeRequest{
				Key: []byte("a"), RangeEnd: []byte("\x00"), SortTarget: target, SortOrder: order,
			}))(t)
			var got string
			for _, kv := range resp.Kvs {
				if order == pb.RangeRequest_DESCEND {
					got = string(kv.Key) + got
				} else {
					got += string(kv.Key)
				}
			}
			wantEqual(t, fmt.Sprint(target, order), got, want)
		}
	}
	for _, r := range []*pb.RangeRequest{{SortOrder: 3}, {SortTarget: 5}} {
		r.Key = []byte("a")
		_, err := conn.KVClient().Range(ctx, r)
		wantErr(t, err, rpctypes.ErrGRPCInvalidSortOption)
	}
}

func TestStreamedRange(t *testing.T) {
	_, cli, conn := newClient(t, Options{MaxRequestBytes: 40 << 10})
	ctx := t.Context()
	for i := range 60 {
		must(cli.Put(ctx, fmt.Sprintf("%02d", i), string(make([]byte, 1<<10))))(t)
	}
	read := func(r *pb.RangeRequest) (sizes []int, last *pb.RangeResponse, err error) {
		r.Key, r.RangeEnd = []byte("0"), []byte("\x00")
		st := must(conn.KVClient().RangeStream(ctx, r))(t)
		for {
			resp, err := st.Recv()
			if err != nil {
				return sizes, last, err
			}
			if last != nil && last.Header != nil {
				t.Error("a header before the last piece")
			}
			last = resp.RangeResponse
			sizes = append(sizes, len(last.Kvs))
		}
	}
	tests := []struct {
		req   *pb.RangeRequest
		sizes string
		more  bool
	}{
		{&pb.RangeRequest{}, "[10 20 20 10]", false},
		{&pb.RangeRequest{Limit: 35}, "[10 20 5]", true},
		{&pb.RangeRequest{Limit: 7}, "[7]", true},
		{&pb.RangeRequest{KeysOnly: true}, "[10 20 30]", false},
		{&pb.RangeRequest{CountOnly: true}, "[0]", false},
	}
	for _, tt := range tests {
		sizes, last, err := read(tt.req)
		wantErr(t, err, io.EOF)
		wantEqual(t, "pieces", fmt.Sprint(sizes), tt.sizes)
		wantEqual(t, "more", last.More, tt.more)
		wantEqual(t, "count", last.Count, 60)
		wantEqual(t, "revision", last.Header.Revision, 61)
	}
	for _, r := range []*pb.RangeRequest{{SortOrder: pb.RangeRequest_DESCEND}, {MinModRevision: 1}} {
		_, _, err := read(r)
		wantEqual(t, "code", status.Code(err), codes.Unimplemented)
	}
	_, _, err := read(&pb.RangeRequest{Revision: 99})
	wantErr(t, err, rpctypes.ErrGRPCFutureRev)
}

func TestTxnRevisions(t *testing.T) {
	srv, cli, _ := newClient(t, Options{})
	ctx := t.Context()
	must(cli.Put(ctx, "a", ""))(t)
	get := func(rev int64) error {
		_, err := cli.Txn(ctx).Then(clientv3.OpGet("a", clientv3.WithRev(rev))).Commit()
		return err
	}
	wantErr(t, get(2), nil)
	wantErr(t, get(-1), nil) // before the first compaction
	wantErr(t, get(-2), rpctypes.ErrCompacted)
	wantErr(t, get(3), rpctypes.ErrFutureRev)
	wantErr(t, srv.Compact(2), nil)
	wantErr(t, get(1), rpctypes.ErrCompacted)
	wantErr(t, get(-1), rpctypes.ErrCompacted)
}

func TestWatchRefusals(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		_, conn := srv.Client("a")
		st := must(conn.WatchClient().Watch(t.Context()))(t)
		send := func(r *pb.WatchRequest) *pb.WatchResponse {
			wantErr(t, st.Send(r), nil)
			return must(st.Recv())(t)
		}
		tests := []struct {
			req    *pb.WatchCreateRequest
			id     int64
			reason string
		}{
			{&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 2}, 2, ""},
			{&pb.WatchCreateRequest{}, 0, ""},
			{&pb.WatchCreateRequest{Key: []byte("a")}, 1, ""},
			{&pb.WatchCreateRequest{Key: []byte("a")}, 3, ""}, // 2 is taken
			{&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 2}, -1, "mvcc: duplicate watch ID provided on the WatchStream"},
			{&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")}, -1, "mvcc: watcher range is empty"},
			{&pb.WatchCreateRequest{StartRevision: -1}, -1, rpctypes.ErrCompacted.Error()},
		}
		for _, tt := range tests {
			resp := send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: tt.req}})
			wantEqual(t, "id", resp.WatchId, tt.id)
			wantEqual(t, "created", resp.Created, true)
			wantEqual(t, "canceled", resp.Canceled, tt.reason != "")
			wantEqual(t, "reason", resp.CancelReason, tt.reason)
		}
		cancel := func(id int64) *pb.WatchRequest {
			return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
		}
		wantErr(t, st.Send(cancel(77)), nil) // no answer: there is none
		resp := send(cancel(2))
		wantEqual(t, "id", resp.WatchId, 2)
		wantEqual(t, "canceled", resp.Canceled, true)
	})
}

// TestKeepAliveStream: leases that are not there are answered, and the stream ends when the client says so.
func TestKeepAliveStream(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli, conn := srv.Client(t.Name())
		wantEqual(t, "name", conn.Name(), t.Name())
		lease := int64(must(cli.Grant(t.Context(), 7))(t).ID)
		st := must(conn.LeaseClient().LeaseKeepAlive(t.Context()))(t)
		for id, ttl := range map[int64]int64{lease: 7, 99: 0} {
			wantErr(t, st.Send(&pb.LeaseKeepAliveRequest{ID: id}), nil)
			resp := must(st.Recv())(t)
			wantEqual(t, "id", resp.ID, id)
			wantEqual(t, "TTL", resp.TTL, ttl)
		}
		wantErr(t, st.CloseSend(), nil)
		_, err := st.Recv()
		wantErr(t, err, io.EOF)
		if err := st.Send(&pb.LeaseKeepAliveRequest{ID: lease}); !errors.Is(err, io.EOF) {
			t.Errorf("sending on an ended stream: %v", err)
		}
	})
}
