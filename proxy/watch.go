package proxy

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcd-leasing/leasing/proxy/internal/stream"
)

// watchServer is etcd's Watch service. Each stream of a caller's is one to etcd,
// under the caller's token: etcd's own proxy lets callers share streams, and with
// them the token of whoever came first, and answers no requests for progress.
type watchServer struct {
	raw   pb.WatchClient
	space namespace

	pb.UnsafeWatchServer
}

func (s *watchServer) Watch(down pb.Watch_WatchServer) error {
	if s.space == "" {
		return stream.RelayFrames(down, func(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return s.raw.Watch(ctx, opts...)
		})
	}
	return stream.Relay(down, func(ctx context.Context) (pb.Watch_WatchClient, error) { return s.raw.Watch(ctx) }, s.request, s.reply)
}

func (s *watchServer) request(r *pb.WatchRequest) {
	if c := r.GetCreateRequest(); c != nil {
		if len(c.Key) == 0 {
			c.Key = []byte{0} // so etcd takes it
		}
		c.Key, c.RangeEnd = s.space.interval(c.Key, c.RangeEnd)
	}
}

func (s *watchServer) reply(r *pb.WatchResponse) {
	for _, ev := range r.Events {
		if ev.Kv != nil {
			ev.Kv.Key = s.space.strip(ev.Kv.Key)
		}
		if ev.PrevKv != nil {
			ev.PrevKv.Key = s.space.strip(ev.PrevKv.Key)
		}
	}
}

// tokenWatcher puts the watches of different tokens on different streams to etcd,
// which its client would share among all of them.
type tokenWatcher struct{ clientv3.Watcher }

func (w tokenWatcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	return w.Watcher.Watch(forwarded(ctx), key, opts...)
}
