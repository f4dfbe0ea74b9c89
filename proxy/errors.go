package proxy

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-leasing/leasing"
)

// unaryErrors turns the errors of handlers into what etcd would have sent.
func unaryErrors(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	resp, err := handle(ctx, req)
	return resp, toStatus(err)
}

func streamErrors(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return toStatus(handle(srv, stream))
}

// toStatus returns an error with a gRPC status. Clients know etcd's errors by their
// text, so the words that the leasing KV has put before it are left out.
func toStatus(err error) error {
	var etcd rpctypes.EtcdError
	var has interface{ GRPCStatus() *status.Status }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &etcd):
		return status.Error(etcd.Code(), etcd.Error())
	case errors.As(err, &has):
		return has.GRPCStatus().Err()
	case errors.Is(err, leasing.ErrClosed):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, leasing.ErrClaimPrefix), errors.Is(err, leasing.ErrTxnTooLarge):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unknown, err.Error())
}
