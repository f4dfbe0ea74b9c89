package proxy

import (
	"context"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
)

// tokenOf returns the token that a caller has sent, which is the one that etcd would
// take: the first of those that bear the usual name, else of those that bear HTTP's.
func tokenOf(ctx context.Context) (token string, ok bool) {
	for _, name := range []string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger} {
		if ts := metadata.ValueFromIncomingContext(ctx, name); len(ts) > 0 {
			return ts[0], true
		}
	}
	return "", false
}

// forwarded returns ctx with what etcd is to see of its caller: the token, and
// whether a leader is asked for.
func forwarded(ctx context.Context) context.Context {
	if out, _ := metadata.FromOutgoingContext(ctx); len(out.Get(rpctypes.TokenFieldNameGRPC)) > 0 {
		return ctx // it has been here before
	}
	if token, ok := tokenOf(ctx); ok {
		ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
	}
	if v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey); len(v) > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, v[0])
	}
	return ctx
}

// outlive returns a context that ends d after ctx does, or when end is called.
func outlive(ctx context.Context, d time.Duration) (life context.Context, end func()) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	left := context.AfterFunc(ctx, func() { time.AfterFunc(d, cancel) })
	return life, func() { left(); cancel() }
}

type sessionKey struct{}

// forSession marks the context of the proxy's own client, and with it the requests of
// the session, whose contexts are made from that.
func forSession(ctx context.Context) context.Context {
	return context.WithValue(ctx, sessionKey{}, true)
}

// ofSession reports whether a request is the session's. Whatever does not bear the mark
// is a caller's, so that nothing is sent with the proxy's credentials by mistake.
func ofSession(ctx context.Context) bool { return ctx.Value(sessionKey{}) != nil }

// call is one operation of a caller's, as long as it lasts, and its context.
type call struct {
	context.Context
	sent atomic.Bool // something was sent to etcd under the caller's credentials
}

type callKey struct{}

// Value returns c itself for callKey.
func (c *call) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// note notes that something is being sent for the call that ctx belongs to.
func note(ctx context.Context) {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		c.sent.Store(true)
	}
}
