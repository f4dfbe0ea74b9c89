package proxy_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// watchHealth watches a name until the first reply, and returns what that says.
func watchHealth(t *testing.T, health healthpb.HealthClient, name string) healthpb.HealthCheckResponse_ServingStatus {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	w, err := health.Watch(ctx, &healthpb.HealthCheckRequest{Service: name})
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return r.Status
}

// Who asks in gRPC's own way is told that the proxy serves.
func TestHealthService(t *testing.T) {
	p := start(t, etcdtest.Start(t, etcdtest.QuickTicks()))
	health := healthpb.NewHealthClient(p.conn())
	if r, err := health.Check(within(t), &healthpb.HealthCheckRequest{}); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", r, err)
	}
	if _, err := health.Check(within(t), &healthpb.HealthCheckRequest{Service: "x"}); status.Code(err) != codes.NotFound {
		t.Errorf("health of what there is not: %v", err)
	}
	if got := watchHealth(t, health, ""); got != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("watched: %v", got)
	}
}

// The names of what there is not are not remembered.
func TestHealthForgetsNames(t *testing.T) {
	p := start(t, etcdtest.Start(t, etcdtest.QuickTicks()))
	health := healthpb.NewHealthClient(p.conn())
	const size, n = 1 << 19, 48
	before := heap()
	for i := range n {
		if got := watchHealth(t, health, fmt.Sprint(i)+strings.Repeat("x", size)); got != healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
			t.Errorf("watched: %v", got)
		}
	}
	eventually(t, "the names are forgotten", func() bool { return heap() < before+n/2*size })
}

// heap is how much memory is in use.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
