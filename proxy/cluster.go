package proxy

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"go.uber.org/zap"
)

// clusterServer is etcd's Cluster service as its own proxy has it, and the one
// method that it leaves out.
type clusterServer struct {
	pb.ClusterServer
	raw pb.ClusterClient
}

func newClusterServer(log *zap.Logger, pass *clientv3.Client, advertised string) pb.ClusterServer {
	inner, _ := grpcproxy.NewClusterProxy(log, pass, advertised, "")
	return clusterServer{inner, pb.NewClusterClient(pass.ActiveConnection())}
}

func (s clusterServer) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	return s.raw.MemberPromote(ctx, r)
}
