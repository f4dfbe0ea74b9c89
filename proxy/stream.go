package proxy

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// source is the end of a stream that messages are read from.
type source[T any] interface{ Recv() (*T, error) }

// sink is the end of a stream that messages are written to.
type sink[T any] interface{ Send(*T) error }

// copyTo passes messages on, each through change, until there are no more.
func copyTo[T any](to sink[T], from source[T], change func(*T)) error {
	for {
		m, err := from.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		change(m)
		if err := to.Send(m); err != nil {
			return err
		}
	}
}

// relay connects a caller's stream with one to etcd that open opens, until either
// ends. One goroutine is left behind, which gRPC ends as soon as the caller's stream
// is done with.
func relay[Q, R any](down grpc.BidiStreamingServer[Q, R], open func(context.Context) (grpc.BidiStreamingClient[Q, R], error), request func(*Q), reply func(*R)) error {
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	up, err := open(ctx)
	if err != nil {
		return err
	}
	go func() {
		if copyTo(up, down, request) != nil {
			cancel()
		}
		_ = up.CloseSend()
	}()
	return copyTo(down, up, reply)
}

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
