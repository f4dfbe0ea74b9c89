package proxy_test

import (
	"context"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// Headers that are too large are refused here, so that etcd does not end the connection
// that all callers share.
func TestLargeHeaders(t *testing.T) {
	p := start(t, etcdtest.Start(t, etcdtest.QuickTicks()))
	conn := p.conn()
	kv, watch := pb.NewKVClient(conn), pb.NewWatchClient(conn)
	read := func(ctx context.Context) error {
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b")})
		return err
	}
	watched := func(ctx context.Context) error {
		w, err := watch.Watch(ctx)
		if err != nil {
			return err
		}
		if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}); err != nil {
			return err
		}
		_, err = w.Recv()
		return err
	}
	for name, call := range map[string]func(context.Context) error{"a call": read, "a stream": watched} {
		for _, field := range []string{"token", "authorization"} {
			with := func(size int) error {
				return call(metadata.AppendToOutgoingContext(within(t), field, strings.Repeat("x", size)))
			}
			if err := with(16 << 10); err != nil { // etcd asks nobody for a token
				t.Errorf("%s with a long %s: %v", name, field, err)
			}
			if err := with(16<<10 + 1); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "token") {
				t.Errorf("%s with a longer %s: %v", name, field, err)
			}
		}
		if err := call(metadata.AppendToOutgoingContext(within(t), "other", strings.Repeat("x", 64<<10))); err == nil {
			t.Errorf("%s with more than 64 KiB of headers is answered", name)
		}
		if err := call(within(t)); err != nil {
			t.Errorf("%s after those that were refused: %v", name, err)
		}
	}
}
