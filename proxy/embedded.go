package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Embedded is an etcd of one member in this process, for trying out.
type Embedded struct {
	etcd *embed.Etcd
	url  string
	log  zap.AtomicLevel

	mu   sync.Mutex
	grpc []*grpc.Server // of etcd; guarded by mu, as it grows in etcd's goroutines
}

// StartEmbedded starts an etcd that keeps its data in dir and listens on the loopback
// interface: at addr, a host and a port, or on a free port if it is empty. It waits
// until etcd serves, or until ctx ends.
func StartEmbedded(ctx context.Context, dir, addr string, log *zap.Logger) (*Embedded, error) {
	if addr == "" {
		var err error
		if addr, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	if err := checkLoopback(addr); err != nil {
		return nil, err
	}
	if err := fileutil.TouchDirAll(log, dir); err != nil {
		return nil, fmt.Errorf("proxy: no directory for the etcd: %w", err)
	}
	peer, err := freeAddr()
	if err != nil {
		return nil, err
	}
	if err := checkUnused(dir); err != nil {
		return nil, err
	}
	e := &Embedded{url: "http://" + addr, log: zap.NewAtomicLevelAt(zap.ErrorLevel)}
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: addr}}
	cfg.ListenPeerUrls = []url.URL{{Scheme: "http", Host: peer}}
	cfg.AdvertiseClientUrls, cfg.AdvertisePeerUrls = cfg.ListenClientUrls, cfg.ListenPeerUrls
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log.Named("etcd").WithOptions(zap.IncreaseLevel(e.log)))
	cfg.ServiceRegister = e.register
	if e.etcd, err = embed.StartEtcd(cfg); err != nil {
		return nil, fmt.Errorf("proxy: cannot start an etcd in %s at %s: %w", dir, addr, err)
	}
	select {
	case <-e.etcd.Server.ReadyNotify():
		return e, nil
	case err = <-e.etcd.Err():
	case <-ctx.Done():
		err = ctx.Err()
	}
	e.Close()
	return nil, fmt.Errorf("proxy: the etcd in %s did not start: %w", dir, err)
}

func (e *Embedded) register(s *grpc.Server) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.grpc = append(e.grpc, s)
}

// URL is where the etcd listens.
func (e *Embedded) URL() string { return e.url }

// Close stops the etcd, whoever still talks to it. Its data stays.
func (e *Embedded) Close() {
	e.log.SetLevel(zap.FatalLevel) // it calls its own end an error
	e.mu.Lock()
	for _, s := range e.grpc {
		s.Stop() // it would wait for watches, which never end
	}
	e.mu.Unlock()
	e.etcd.Close()
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// checkLoopback refuses addresses that others could reach: the etcd asks nobody who
// they are.
func checkLoopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("proxy: the address %q of the embedded etcd: %w", addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("proxy: the embedded etcd would listen at %s, where others can reach it: use 127.0.0.1", addr)
	}
	return nil
}

// checkUnused refuses a directory that another etcd has open, as etcd would wait for that
// to end, and say nothing.
func checkUnused(dir string) error {
	file := filepath.Join(dir, "member", "snap", "db")
	if _, err := os.Stat(file); err != nil {
		return nil // etcd will tell if that means more than that it is new
	}
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return fmt.Errorf("proxy: the directory %s is in use by another etcd, perhaps by a proxy that was started with it before: stop that, or use another directory", dir)
	case err != nil:
		return nil
	}
	return db.Close()
}
