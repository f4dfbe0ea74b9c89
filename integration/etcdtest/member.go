package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// member is one etcd server. It keeps its name, ports and data while stopped.
type member struct {
	name               string
	dir                string
	client, http, peer string // URLs

	etcd *embed.Etcd // nil while stopped

	mu   sync.Mutex
	grpc []*grpc.Server // of etcd; guarded by mu, as it grows in etcd's goroutines
}

func newMember(name, dir string, tls bool) (*member, error) {
	m := &member{name: name, dir: dir}
	for _, u := range []*string{&m.client, &m.http, &m.peer} {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		*u = "http://" + loopback(port)
	}
	if tls {
		m.client = "https" + m.client[len("http"):]
	}
	return m, nil
}

// start starts the server; ready waits for it.
func (m *member) start(o options, initialCluster string, certs *certificates) error {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = m.name, m.dir
	cfg.ListenClientUrls = urls(m.client)
	// With another port for HTTP, gRPC has its port to itself.
	cfg.ListenClientHttpUrls = urls(m.http)
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ListenPeerUrls = urls(m.peer)
	cfg.AdvertisePeerUrls = cfg.ListenPeerUrls
	cfg.InitialCluster = initialCluster
	cfg.TickMs, cfg.ElectionMs = uint(o.heartbeat/time.Millisecond), uint(o.election/time.Millisecond)
	cfg.QuotaBackendBytes = o.quota
	cfg.UnsafeNoFsync = !o.fsync
	cfg.BcryptCost = 4 // the least that there is
	cfg.EnableGRPCGateway = false
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	if certs != nil {
		cfg.ClientTLSInfo = certs.server
	}
	for _, change := range o.embed {
		change(cfg)
	}
	register := cfg.ServiceRegister
	cfg.ServiceRegister = func(s *grpc.Server) {
		m.mu.Lock()
		m.grpc = append(m.grpc, s)
		m.mu.Unlock()
		if register != nil {
			register(s)
		}
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("etcdtest: %s: %w", m.name, err)
	}
	m.etcd = etcd
	return nil
}

func (m *member) ready(ctx context.Context) error {
	select {
	case <-m.etcd.Server.ReadyNotify():
		return nil
	case err := <-m.etcd.Err():
		return fmt.Errorf("etcdtest: %s: %w", m.name, err)
	case <-m.etcd.Server.StopNotify():
		return fmt.Errorf("etcdtest: %s stopped while it started", m.name)
	case <-ctx.Done():
		return fmt.Errorf("etcdtest: %s is not ready: %w", m.name, ctx.Err())
	}
}

// stop ends the server. A leader that is not killed hands over first.
func (m *member) stop(kill bool) {
	if m.etcd == nil {
		return
	}
	// etcd gives clients seconds to end their streams, and watches never do.
	m.mu.Lock()
	for _, s := range m.grpc {
		s.Stop()
	}
	m.grpc = nil
	m.mu.Unlock()
	if kill {
		m.etcd.Server.HardStop()
	}
	m.etcd.Close()
	m.etcd = nil
}

func (m *member) removeData() error {
	if m.etcd != nil {
		return errors.New("etcdtest: data of a running member")
	}
	return os.RemoveAll(m.dir)
}

func urls(s string) []url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic("etcdtest: " + err.Error())
	}
	return []url.URL{*u}
}
