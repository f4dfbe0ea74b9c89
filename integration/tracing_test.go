package integration_test

import (
	"context"
	"fmt"
	"log"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// OpenTelemetry's handler, given to etcd's client, traces what a KV sends as it traces
// what the client sends by itself. A caller's span gets one child for a write, and none
// for a read from memory. Claims of many readers go in one request of the KV's own, so
// they have spans of their own.
func Example_tracing() {
	dir, err := os.MkdirTemp("", "tracing")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	etcd, err := etcdtest.Launch(dir, etcdtest.QuickTicks())
	if err != nil {
		log.Fatal(err)
	}
	defer etcd.Close()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	defer provider.Shutdown(context.Background())

	cl, err := clientv3.New(clientv3.Config{
		Endpoints: []string{etcd.Endpoint(0)},
		DialOptions: []grpc.DialOption{
			grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(provider))),
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer cl.Close()
	kv, err := leasing.New(context.Background(), cl, leasing.Config{Prefix: "leasing/"})
	if err != nil {
		log.Fatal(err)
	}
	defer kv.Close()

	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"write", func(ctx context.Context) error { _, err := kv.Put(ctx, "k", "v"); return err }},
		{"claim", func(ctx context.Context) error { _, err := kv.Get(ctx, "k"); return err }},
		{"read from memory", func(ctx context.Context) error { _, err := kv.Get(ctx, "k"); return err }},
		{"read of a range", func(ctx context.Context) error {
			_, err := kv.Get(ctx, "k", clientv3.WithPrefix())
			return err
		}},
	} {
		ctx, span := provider.Tracer("app").Start(context.Background(), step.name)
		if err := step.do(ctx); err != nil {
			log.Fatal(err)
		}
		span.End()
		fmt.Printf("%s:", step.name)
		for _, s := range spans.Ended() {
			if s.Parent().SpanID() == span.SpanContext().SpanID() {
				fmt.Printf(" %s", s.Name())
			}
		}
		fmt.Println()
	}
	// Output:
	// write: etcdserverpb.KV/Txn
	// claim:
	// read from memory:
	// read of a range: etcdserverpb.KV/Range
}
