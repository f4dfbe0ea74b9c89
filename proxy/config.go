package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.uber.org/zap"

	"github.com/etcd-leasing/leasing"
)

// Config configures a Server.
type Config struct {
	// Endpoints are the URLs or addresses of etcd; at least one. All are talked to as
	// the first is: with TLS if it begins with https://, or with a host and TLS below
	// is set. One with http:// beside TLS is refused.
	Endpoints []string

	// Namespace is put before every key that clients name, and taken off every key
	// that they are shown; empty means that clients see all of etcd, the claims
	// among it. Claims are never in the namespace: see the package documentation.
	// It must not end with the byte 0xff.
	Namespace string

	// Leasing configures the KV that owns the keys. Its prefix is a prefix in etcd,
	// not in the namespace. An empty Logger there means the one below.
	Leasing leasing.Config

	// TLS is what etcd is talked to with; nil means that it is without TLS. A
	// certificate in it must have no common name: see the package documentation.
	TLS *transport.TLSInfo

	// ListenTLS is what clients are talked to with; nil means that it is without.
	ListenTLS *transport.TLSInfo

	// Username and Password are those of the proxy's own session: claims, yields and
	// their watch. No client's request is ever sent with them.
	Username, Password string

	// DialTimeout is how long New waits for etcd; 0 means 5 s.
	DialTimeout time.Duration

	// AuthBound is for how long an answer of etcd that a caller may read is believed
	// for reads from memory: a right that is withdrawn ends within that. 0 means that
	// nothing is answered from memory, to anybody; less than 0 is refused.
	AuthBound time.Duration

	// AdvertiseClientURL is the address that clients are shown as the only member of
	// the cluster, so that those who ask for endpoints come back here. Empty means
	// that they are shown etcd's members: who then talks to those writes keys without
	// the protocol, and is not seen by their owners.
	AdvertiseClientURL string

	// Gatherer has more metrics for [Server.Handler]; nil means none.
	Gatherer prometheus.Gatherer

	// Logger gets what the proxy has to say; nil means that nobody does.
	Logger *zap.Logger
}

const (
	defaultDialTimeout = 5 * time.Second
	defaultMaxTxnOps   = 128 // etcd's
)

// validate returns the configuration with its defaults.
func (cfg Config) validate() (Config, error) {
	prefix, ns := cfg.Leasing.Prefix, cfg.Namespace
	switch {
	case len(cfg.Endpoints) == 0:
		return cfg, errors.New("proxy: no endpoints: name at least one address of etcd")
	case cfg.TLS != nil && slices.ContainsFunc(cfg.Endpoints, func(e string) bool { return plain(e, true) }):
		return cfg, fmt.Errorf("proxy: there is a configuration for TLS to etcd, but %q has http://: use https://", cfg.Endpoints)
	case prefix == "":
		return cfg, errors.New("proxy: the claim prefix is empty: name one that holds no data, such as \"leasing/\"")
	case ns != "" && strings.HasPrefix(prefix, ns):
		return cfg, fmt.Errorf("proxy: the claim prefix %q is in the namespace %q, where clients would see claims: choose another", prefix, ns)
	case ns != "" && strings.HasPrefix(ns, prefix):
		return cfg, fmt.Errorf("proxy: the namespace %q is under the claim prefix %q, where data is taken for claims: choose another", ns, prefix)
	case strings.HasSuffix(ns, "\xff"):
		return cfg, fmt.Errorf("proxy: the namespace %q ends with the byte 0xff, where etcd's client ends ranges too late: choose another", ns)
	case cfg.AuthBound < 0:
		return cfg, fmt.Errorf("proxy: the bound on rights is %v: it must be at least 0", cfg.AuthBound)
	case cfg.DialTimeout < 0:
		return cfg, fmt.Errorf("proxy: the timeout for dialing is %v: it must be at least 0", cfg.DialTimeout)
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = defaultDialTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	cfg.Leasing.MaxTxnOps = cmp.Or(cfg.Leasing.MaxTxnOps, defaultMaxTxnOps)
	if cfg.Leasing.Logger == nil {
		cfg.Leasing.Logger = cfg.Logger
	}
	return cfg, nil
}
