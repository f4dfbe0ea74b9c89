package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/etcd-leasing/leasing"
)

// reach is whether etcd answers, as far as the latest question showed. It is for the
// log, which tells of changes, and decides nothing.
type reach struct {
	away atomic.Bool
	hint sync.Once // that a user is missing
}

// askTimeout bounds a question to etcd.
const askTimeout = 2 * time.Second

// askAnonymously sends etcd a read without credentials, which it refuses if
// authentication is on. It costs no raft entry.
func (s *Server) askAnonymously(ctx context.Context) error {
	err := s.ask(ctx, grpc.WaitForReady(true))
	if s.ctx.Err() == nil && !errors.Is(ctx.Err(), context.Canceled) {
		s.heard(err)
	}
	return err
}

// ask does so with a call of its own: the client would keep to itself why it has no
// connection.
func (s *Server) ask(ctx context.Context, opts ...grpc.CallOption) error {
	r := &pb.RangeRequest{Key: []byte(s.cfg.Leasing.Prefix), KeysOnly: true}
	_, err := pb.NewKVClient(s.pass.ActiveConnection()).Range(ctx, r, opts...)
	return rpctypes.Error(err)
}

// answered reports whether an error is etcd's answer to who has no credentials.
func answered(err error) bool {
	return err == nil || errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrPermissionDenied)
}

// heard tells the log what is new in an answer to askAnonymously.
func (s *Server) heard(err error) {
	away := !answered(err)
	switch was := s.reach.away.Swap(away); {
	case away && !was:
		s.cfg.Logger.Warn("etcd does not answer a read", zap.Strings("endpoints", s.cfg.Endpoints), zap.Error(err))
	case was && !away:
		s.cfg.Logger.Info("etcd answers again", zap.Strings("endpoints", s.cfg.Endpoints))
	}
	if errors.Is(err, rpctypes.ErrUserEmpty) && s.cfg.Username == "" {
		s.reach.hint.Do(func() {
			s.cfg.Logger.Warn("etcd asks for a user: set --user (Config.Username), or nothing is read from memory")
		})
	}
}

// explain adds to an error of the start why there is no connection to etcd, if so.
func (s *Server) explain(err error) error {
	ctx, cancel := context.WithTimeout(s.ctx, askTimeout)
	defer cancel()
	if cause := s.ask(ctx); !answered(cause) {
		return fmt.Errorf("%w; %w", err, cause)
	}
	return err
}

// checkUpstream returns an error if what is taken for etcd is a leasing proxy with the same
// claim prefix, which lets nobody write claims: it refuses a deletion that etcd would not
// come to, as no revision is below 0.
func (s *Server) checkUpstream(ctx context.Context) error {
	prefix := s.cfg.Leasing.Prefix
	never := clientv3.Compare(clientv3.CreateRevision(prefix), "<", 0)
	_, err := s.own.KV.Txn(forSession(ctx)).If(never).Then(clientv3.OpDelete(prefix)).Commit()
	if err != nil && strings.Contains(err.Error(), leasing.ErrClaimPrefix.Error()) {
		return fmt.Errorf("proxy: a leasing proxy with the claim prefix %q answers at %q: name the addresses of etcd itself", prefix, s.cfg.Endpoints)
	}
	return nil // what else may be wrong shows when keys are claimed
}
