package proxy

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// healthServer is gRPC's health service for the proxy as a whole. gRPC's own remembers
// every name that it was ever asked to watch, and anybody may ask.
type healthServer struct{ *health.Server }

// Watch tells of the proxy, which has the empty name. There is nothing else, nor will be.
func (s healthServer) Watch(r *healthpb.HealthCheckRequest, down grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	if r.Service == "" {
		return s.Server.Watch(r, down)
	}
	err := down.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVICE_UNKNOWN})
	if err != nil {
		return err
	}
	<-down.Context().Done()
	return down.Context().Err()
}
