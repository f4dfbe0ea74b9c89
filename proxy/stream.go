package proxy

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// streamEnds ends the streams of callers when the server stops, which would last as
// long as the callers do. They are told to go elsewhere.
func streamEnds(stopping context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		ctx, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(stopping, cancel)()
		err := handle(srv, endingStream{stream, ctx})
		if stopping.Err() != nil {
			return status.Error(codes.Unavailable, "leasing-proxy: the proxy is stopping")
		}
		return err
	}
}

// endingStream is a stream with a context that may end before it.
type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s endingStream) Context() context.Context { return s.ctx }
