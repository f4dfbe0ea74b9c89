package proxy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	kvspace "go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy/adapter"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/proxy/internal/stream"
)

// Server is a proxy before etcd. It is made by [New], serves by [Server.Serve] until
// [Server.Stop], and owns its connections to etcd and the KV.
type Server struct {
	cfg       Config
	own, pass *clientv3.Client
	kv        *leasing.KV
	grpc      *grpc.Server
	health    *health.Server
	calls     *calls
	newcomers newcomers
	reach     reach

	ctx      context.Context // ends when Stop begins
	stopping context.CancelFunc
	over     context.Context // ends when the bound of Stop is over
	end      context.CancelFunc
	stopOnce sync.Once
	wg       sync.WaitGroup
}

// New connects to etcd and makes the KV. It waits for etcd as long as ctx and
// Config.DialTimeout let it. The caller must call Stop.
func New(ctx context.Context, cfg Config) (_ *Server, err error) {
	cfg, err = cfg.validate()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, calls: newCalls()}
	s.ctx, s.stopping = context.WithCancel(context.Background())
	s.over, s.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			s.Stop(0)
		}
	}()
	opts, err := s.options()
	if err != nil {
		return nil, err
	}
	if cfg.Username != "" && plain(cfg.Endpoints[0], cfg.TLS != nil) {
		cfg.Logger.Warn("the password of the proxy's user goes to etcd in the clear: use https://", zap.String("user", cfg.Username))
	}
	if s.pass, err = newPass(cfg); err != nil {
		return nil, fmt.Errorf("proxy: cannot connect to etcd at %q: %w", cfg.Endpoints, err)
	}
	if s.own, err = newOwn(cfg); err != nil {
		return nil, s.explain(fmt.Errorf("proxy: cannot connect to etcd at %q with the proxy's own credentials: %w", cfg.Endpoints, err))
	}
	s.own.KV = clientv3.NewKVFromKVClient(router{clientv3.RetryKVClient(s.own), clientv3.RetryKVClient(s.pass)}, s.own)
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	if s.kv, err = leasing.New(ctx, s.own, cfg.Leasing); err != nil {
		return nil, s.explain(err)
	}
	if err := s.checkUpstream(ctx); err != nil {
		return nil, err
	}
	s.register(ctx, opts)
	return s, nil
}

// KV returns the leasing KV that the proxy answers from. It ends with the proxy.
func (s *Server) KV() *leasing.KV { return s.kv }

// register makes the gRPC server with all services.
func (s *Server) register(ctx context.Context, opts []grpc.ServerOption) {
	kv, space, conn := s.kvServer(), namespace(s.cfg.Namespace), s.pass.ActiveConnection()
	kv.anonymous.ask(ctx, s.askAnonymously) // for the log, too
	s.wg.Go(func() { kv.anonymous.run(s.ctx, s.askAnonymously) })
	s.grpc = grpc.NewServer(opts...)
	pb.RegisterKVServer(s.grpc, kv)
	pb.RegisterWatchServer(s.grpc, &watchServer{raw: pb.NewWatchClient(conn), space: space})
	pb.RegisterLeaseServer(s.grpc, &leaseServer{raw: pb.NewLeaseClient(conn), space: space})
	pb.RegisterClusterServer(s.grpc, newClusterServer(s.cfg.Logger, s.pass, s.cfg.AdvertiseClientURL))
	pb.RegisterMaintenanceServer(s.grpc, grpcproxy.NewMaintenanceProxy(s.pass))
	pb.RegisterAuthServer(s.grpc, grpcproxy.NewAuthProxy(s.pass))

	// Locks and elections are etcd's own code on the KV of the callers, so that what
	// they write keeps to the protocol and is in the namespace.
	each := perCall{
		kv: clientv3.NewKVFromKVClient(adapter.KvServerToKvClient(kv), nil), lease: s.pass.Lease,
		watcher: kvspace.NewWatcher(tokenWatcher{s.pass.Watcher}, s.cfg.Namespace), log: s.pass.GetLogger(), over: s.over,
	}
	v3lockpb.RegisterLockServer(s.grpc, &lockServer{perCall: each})
	v3electionpb.RegisterElectionServer(s.grpc, &electionServer{perCall: each})
	s.health = health.NewServer()
	healthpb.RegisterHealthServer(s.grpc, healthServer{s.health})
}

func (s *Server) kvServer() *kvServer {
	kv := &kvServer{
		cached: s.kv, uncached: s.kv.Uncached(), raw: pb.NewKVClient(s.pass.ActiveConnection()),
		space: namespace(s.cfg.Namespace), rights: newRights(s.cfg.AuthBound), anonymous: newAnonymous(s.cfg.AuthBound),
		maxOps: s.cfg.Leasing.MaxTxnOps,
	}
	if ns := s.cfg.Namespace; ns != "" {
		kv.cached, kv.uncached = kvspace.NewKV(kv.cached, ns), kvspace.NewKV(kv.uncached, ns)
	}
	return kv
}

// window is how much of a client's requests is under way without being taken in.
const window = 1 << 20

// streamWorkers is how many goroutines wait for requests. Their stacks have grown already:
// those of goroutines that begin with a request are copied once or twice before it is
// sent to etcd, which was a tenth of the processor time of a put.
const streamWorkers = 128

func (s *Server) options() ([]grpc.ServerOption, error) {
	panics := recovered(s.cfg.Logger)
	opts := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(s.calls.unary, recovery.UnaryServerInterceptor(panics), unaryErrors),
		grpc.ChainStreamInterceptor(s.calls.stream, recovery.StreamServerInterceptor(panics), streamErrors, streamEnds(s.ctx)),
		grpc.ForceServerCodecV2(stream.NewFraming()),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window), grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxSendMsgSize(math.MaxInt32), grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.ConnectionTimeout(greetTimeout), grpc.MaxHeaderListSize(maxHeaders),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}),
	}
	if s.cfg.ListenTLS != nil {
		cfg, err := s.cfg.ListenTLS.ServerConfig()
		if err != nil {
			return nil, fmt.Errorf("proxy: TLS of the listener: %w", err)
		}
		opts = append(opts, grpc.Creds(loggedTLS{credentials.NewTLS(cfg), onceIn(10*time.Second, s.cfg.Logger)}))
	}
	return opts, nil
}

// Serve serves callers that connect to l until Stop, and then returns nil. It closes
// l.
func (s *Server) Serve(l net.Listener) error {
	s.cfg.Logger.Info("serving", zap.Stringer("address", l.Addr()), zap.Strings("endpoints", s.cfg.Endpoints),
		zap.String("leasing-prefix", s.cfg.Leasing.Prefix), zap.String("namespace", s.cfg.Namespace))
	if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() && s.cfg.ListenTLS == nil {
		s.cfg.Logger.Warn("other hosts can reach the proxy, in the clear: give it a certificate, or have it listen on loopback", zap.Stringer("address", tcp))
	}
	err := s.grpc.Serve(listener{l, &s.newcomers})
	if s.ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// Stop stops listening, ends the streams of callers, waits for their calls for as
// long as bound says, and then hands over every key that is owned, whatever callers
// do. It may be called more than once.
func (s *Server) Stop(bound time.Duration) {
	s.stopOnce.Do(func() { s.stop(bound) })
}

func (s *Server) stop(bound time.Duration) {
	s.stopping()
	var callers sync.WaitGroup
	served := make(chan struct{})
	callers.Go(func() { s.drain(); close(served) })
	hurry := time.NewTimer(bound)
	defer hurry.Stop()
	select {
	case <-served:
	case <-hurry.C:
		callers.Go(s.hurry)
	}
	s.end()
	s.wg.Wait()
	if s.kv != nil {
		s.kv.Close()
	}
	for _, cl := range []*clientv3.Client{s.own, s.pass} {
		if cl != nil {
			cl.Close()
		}
	}
	callers.Wait() // what they had under way could only fail since
}

// drain waits until callers have gone.
func (s *Server) drain() {
	if s.grpc != nil {
		s.health.Shutdown()
		s.grpc.GracefulStop()
	}
}

// hurry ends what callers still have under way.
func (s *Server) hurry() {
	s.newcomers.close()
	if s.grpc != nil {
		s.grpc.Stop()
	}
}
