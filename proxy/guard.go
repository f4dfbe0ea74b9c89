package proxy

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// All callers share a connection to etcd, which etcd closes if it gets headers that are
// far too large. So what is passed on of a caller's must stay far below its limit of
// 16 MiB.
const (
	maxHeaders = 64 << 10 // of a request, as gRPC counts them
	maxToken   = 16 << 10
)

func checkToken(ctx context.Context) error {
	if token, _ := tokenOf(ctx); len(token) > maxToken {
		return status.Errorf(codes.InvalidArgument, "leasing-proxy: the token has %d bytes, more than %d: no token of etcd's is as long, authenticate again", len(token), maxToken)
	}
	return nil
}

// guardUnary refuses calls that could do harm to others.
func guardUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := checkToken(ctx); err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

// guardStream is guardUnary for streams.
func guardStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := checkToken(stream.Context()); err != nil {
		return err
	}
	return handle(srv, stream)
}
