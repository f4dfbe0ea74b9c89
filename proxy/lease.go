package proxy

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/etcd-leasing/leasing/proxy/internal/stream"
)

// leaseServer is etcd's Lease service: etcd's, with clients' names for keys. Keys
// that hang on a lease are never owned, so nobody has to be asked when it ends.
type leaseServer struct {
	raw   pb.LeaseClient
	space namespace

	pb.UnsafeLeaseServer
}

func (s *leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	return s.raw.LeaseGrant(ctx, r)
}

func (s *leaseServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	return s.raw.LeaseRevoke(ctx, r)
}

func (s *leaseServer) LeaseKeepAlive(down pb.Lease_LeaseKeepAliveServer) error {
	return stream.RelayFrames(down, func(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return s.raw.LeaseKeepAlive(ctx, opts...)
	})
}

func (s *leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	resp, err := s.raw.LeaseTimeToLive(ctx, r)
	if err != nil {
		return nil, err
	}
	keys := resp.Keys[:0]
	for _, key := range resp.Keys {
		if s.space.holds(key) {
			keys = append(keys, s.space.strip(key))
		}
	}
	resp.Keys = keys
	return resp, nil
}

func (s *leaseServer) LeaseLeases(ctx context.Context, r *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	return s.raw.LeaseLeases(ctx, r)
}
