// Package stream passes the messages of gRPC streams on, from one to another.
package stream

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
)

// source is the end of a stream that messages are read from.
type source[T any] interface{ Recv() (*T, error) }

// sink is the end of a stream that messages are written to.
type sink[T any] interface{ Send(*T) error }

// Copy passes messages on, each through change, until there are no more.
func Copy[T any](to sink[T], from source[T], change func(*T)) error {
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

// Relay connects a caller's stream with one to etcd that open opens, until either
// ends. One goroutine is left behind, which gRPC ends as soon as the caller's stream
// is done with.
func Relay[Q, R any](down grpc.BidiStreamingServer[Q, R], open func(context.Context) (grpc.BidiStreamingClient[Q, R], error), request func(*Q), reply func(*R)) error {
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	up, err := open(ctx)
	if err != nil {
		return err
	}
	go func() {
		if Copy(up, down, request) != nil {
			cancel()
		}
		_ = up.CloseSend()
	}()
	return Copy(down, up, reply)
}
