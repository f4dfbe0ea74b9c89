package proxy

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"go.uber.org/zap"
)

// cleanUpTimeout is how long etcd's code may take to delete the key of a caller who
// has left the queue for a lock or an office.
const cleanUpTimeout = 5 * time.Second

// perCall makes the clients that etcd's code for locks and elections works with, one
// for each call. That code cleans up with the context of its client, which is to bear
// the token of the caller, and to end.
type perCall struct {
	kv      clientv3.KV
	lease   clientv3.Lease
	watcher clientv3.Watcher
	log     *zap.Logger
	over    context.Context // ends when no call may go on
}

// client returns a client for the call that ctx is of. Its own context lasts for
// cleanUpTimeout longer than ctx, or until done is called.
func (p perCall) client(ctx context.Context) (cl *clientv3.Client, done func()) {
	life, end := outlive(ctx, cleanUpTimeout)
	over := context.AfterFunc(p.over, end)
	cl = clientv3.NewCtxClient(life, clientv3.WithZapLogger(p.log))
	cl.KV, cl.Lease, cl.Watcher = p.kv, p.lease, p.watcher
	return cl, func() { over(); end() }
}

// lockServer is etcd's Lock service.
type lockServer struct {
	perCall

	v3lockpb.UnsafeLockServer
}

func (s *lockServer) Lock(ctx context.Context, r *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
	cl, done := s.client(ctx)
	defer done()
	return v3lock.NewLockServer(cl).Lock(ctx, r)
}

func (s *lockServer) Unlock(ctx context.Context, r *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
	cl, done := s.client(ctx)
	defer done()
	return v3lock.NewLockServer(cl).Unlock(ctx, r)
}

// electionServer is etcd's Election service.
type electionServer struct {
	perCall

	v3electionpb.UnsafeElectionServer
}

func (s *electionServer) Campaign(ctx context.Context, r *v3electionpb.CampaignRequest) (*v3electionpb.CampaignResponse, error) {
	cl, done := s.client(ctx)
	defer done()
	return v3election.NewElectionServer(cl).Campaign(ctx, r)
}

func (s *electionServer) Proclaim(ctx context.Context, r *v3electionpb.ProclaimRequest) (*v3electionpb.ProclaimResponse, error) {
	cl, done := s.client(ctx)
	defer done()
	return v3election.NewElectionServer(cl).Proclaim(ctx, r)
}

func (s *electionServer) Leader(ctx context.Context, r *v3electionpb.LeaderRequest) (*v3electionpb.LeaderResponse, error) {
	cl, done := s.client(ctx)
	defer done()
	return v3election.NewElectionServer(cl).Leader(ctx, r)
}

func (s *electionServer) Observe(r *v3electionpb.LeaderRequest, down v3electionpb.Election_ObserveServer) error {
	cl, done := s.client(down.Context())
	defer done()
	return v3election.NewElectionServer(cl).Observe(r, down)
}

func (s *electionServer) Resign(ctx context.Context, r *v3electionpb.ResignRequest) (*v3electionpb.ResignResponse, error) {
	cl, done := s.client(ctx)
	defer done()
	return v3election.NewElectionServer(cl).Resign(ctx, r)
}
