package proxy

import (
	"context"
	"fmt"
	"runtime"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"go.uber.org/zap"
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

// recovered turns a panic into an error, so that what one request does ends no other's.
// It logs where it came to that. What a panic says is logged only if it is the
// runtime's, as that holds no data.
func recovered(log *zap.Logger) recovery.Option {
	return recovery.WithRecoveryHandler(func(p any) error {
		what := fmt.Sprintf("%T", p)
		if err, ok := p.(runtime.Error); ok {
			what = err.Error()
		}
		log.Error("a request has made the proxy panic: this is a mistake in it, report it", zap.String("panic", what), zap.Stack("stack"))
		return status.Error(codes.Internal, "leasing-proxy: this request made the proxy panic, and may have been applied; the log of the proxy has more")
	})
}
