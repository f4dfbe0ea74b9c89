package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/proxy"
)

// envPrefix begins the names of environment variables. It is not etcd's, as an etcd
// on the same host may have those.
const envPrefix = "LEASING_PROXY_"

// settings is what the command line and the environment say.
type settings struct {
	endpoints  []string
	listen     string
	metrics    string
	advertise  string
	prefix     string
	namespace  string
	ttl        time.Duration
	maxKeys    int
	maxBytes   int64
	claimAfter int
	authBound  time.Duration
	dial       time.Duration
	stop       time.Duration
	user       string
	password   string
	etcd       tlsFlags
	clients    tlsFlags
	skipVerify bool
	certAuth   bool
	embedded   string
	level      string
	version    bool

	flags   *pflag.FlagSet
	unknown []string // variables that look as if they were meant for us
}

// tlsFlags are the files of one side.
type tlsFlags struct{ ca, cert, key string }

// info returns what package transport makes of them; nil if there are none.
func (f tlsFlags) info() *transport.TLSInfo {
	if f == (tlsFlags{}) {
		return nil
	}
	return &transport.TLSInfo{TrustedCAFile: f.ca, CertFile: f.cert, KeyFile: f.key}
}

func newSettings(out io.Writer) *settings {
	s := &settings{flags: pflag.NewFlagSet("leasing-proxy", pflag.ContinueOnError)}
	f := s.flags
	f.SortFlags = false
	f.SetOutput(out)
	f.Usage = func() { fmt.Fprintf(out, usage, f.FlagUsagesWrapped(110)) }

	f.StringSliceVar(&s.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "`addresses` of etcd, separated by commas; http:// or https:// may stand before each")
	f.StringVar(&s.listen, "listen-addr", "127.0.0.1:23790", "`address` to serve clients at")
	f.StringVar(&s.metrics, "metrics-addr", "", "`address` to serve /metrics, /health, /readyz and the page /debug/leasing at, in the clear and to anybody; none if empty")
	f.StringVar(&s.advertise, "advertise-client-url", "", "`url` to show as the only member, so that clients that ask etcd for its endpoints stay here; etcd's members if empty")
	f.StringVar(&s.prefix, "leasing-prefix", "leasing/", "`prefix` of the claims in etcd, outside of the namespace; the same for every proxy and library that writes the data")
	f.StringVar(&s.namespace, "namespace", "", "`prefix` that is put before every key of clients, and taken off what they are shown")

	f.DurationVar(&s.ttl, "ttl", 0, "how long writes wait for the keys of a proxy that is cut off from etcd (default 1m0s)")
	f.IntVar(&s.maxKeys, "max-keys", 0, "the most keys that are owned (default 100000)")
	f.Int64Var(&s.maxBytes, "max-bytes", 0, "the most bytes that they take in memory, about; no bound if 0")
	f.IntVar(&s.claimAfter, "claim-after", 0, "how many reads of a key within 10 s it takes to claim it (default 1)")
	f.DurationVar(&s.authBound, "auth-bound", 5*time.Second, "how long it takes at most until a right that is withdrawn, or authentication that is turned on, ends reads from memory; with 0 nothing is read from memory")
	f.DurationVar(&s.dial, "dial-timeout", 5*time.Second, "how long to wait for etcd at the start")
	f.DurationVar(&s.stop, "stop-timeout", 5*time.Second, "how long to wait for calls under way at the end")

	f.StringVar(&s.user, "user", "", "`name[:password]` of the proxy's own session, which needs the rights to the claims and to read the data")
	f.StringVar(&s.password, "password", "", "the password of --user, if that has none; "+envName("password")+" keeps it out of the list of processes")
	f.StringVar(&s.etcd.ca, "cacert", "", "`file` of the CAs that sign etcd's certificates")
	f.StringVar(&s.etcd.cert, "cert", "", "`file` of the certificate to show etcd; it must have no common name")
	f.StringVar(&s.etcd.key, "key", "", "`file` of its key")
	f.BoolVar(&s.skipVerify, "insecure-skip-tls-verify", false, "do not check etcd's certificates (for tests only)")
	f.StringVar(&s.clients.ca, "trusted-ca-file", "", "`file` of the CAs that sign clients' certificates")
	f.StringVar(&s.clients.cert, "cert-file", "", "`file` of the certificate to show clients")
	f.StringVar(&s.clients.key, "key-file", "", "`file` of its key")
	f.BoolVar(&s.certAuth, "client-cert-auth", false, "ask clients for a certificate")

	f.StringVar(&s.embedded, "embedded", "", "`directory` of an etcd to run within the proxy, for trying out: on 127.0.0.1, at --endpoints if that is given, else at a free port")
	f.StringVar(&s.level, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&s.version, "version", false, "print the version and exit")
	return s
}

const usage = `leasing-proxy serves etcd's gRPC API, and answers linearizable reads of single
keys from memory: of those keys that it owns through claims in etcd. All who write
the data must do so through such proxies, or through the library, with the same
claim prefix.

Usage:
  leasing-proxy [flags]

  leasing-proxy --embedded /tmp/try         # with an etcd of its own
  etcdctl --endpoints 127.0.0.1:23790 put greeting hello

Flags:
%s
Each flag has an environment variable, LEASING_PROXY_ENDPOINTS for --endpoints and
so on, which the flag overrides.
`

// envName is the environment variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// parse reads the command line, and the environment for what that does not say.
func (s *settings) parse(args, environ []string) error {
	if err := s.flags.Parse(args); err != nil {
		return err
	}
	if s.flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: there are only flags", s.flags.Arg(0))
	}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, envPrefix) {
			continue
		}
		if err := s.setEnv(name, value); err != nil {
			return err
		}
	}
	return s.check()
}

func (s *settings) setEnv(name, value string) error {
	var flag *pflag.Flag
	s.flags.VisitAll(func(f *pflag.Flag) {
		if envName(f.Name) == name {
			flag = f
		}
	})
	switch {
	case flag == nil:
		s.unknown = append(s.unknown, name)
		return nil
	case flag.Changed:
		return nil
	}
	if err := s.flags.Set(flag.Name, value); err != nil {
		return fmt.Errorf("%s, which stands for --%s: %w", name, flag.Name, err)
	}
	return nil
}

// check refuses what cannot be meant.
func (s *settings) check() error {
	name, password, both := strings.Cut(s.user, ":")
	switch {
	case len(s.endpoints) == 0 || slices.Contains(s.endpoints, ""):
		return errors.New("--endpoints: an address is empty")
	case s.prefix == "":
		return errors.New("--leasing-prefix is empty: name a prefix that holds no data")
	case s.namespace != "" && strings.HasPrefix(s.prefix, s.namespace):
		return fmt.Errorf("--leasing-prefix %q is in the --namespace %q, where clients would see claims: choose another", s.prefix, s.namespace)
	case s.namespace != "" && strings.HasPrefix(s.namespace, s.prefix):
		return fmt.Errorf("--namespace %q is under the --leasing-prefix %q, where data is taken for claims: choose another", s.namespace, s.prefix)
	case s.ttl < 0 || s.ttl > 0 && s.ttl < time.Second:
		return fmt.Errorf("--ttl is %v: it must be at least 1s", s.ttl)
	case s.maxKeys < 0:
		return fmt.Errorf("--max-keys is %d: it must be at least 1", s.maxKeys)
	case s.maxBytes < 0:
		return fmt.Errorf("--max-bytes is %d: it must be at least 1, or 0 for no bound", s.maxBytes)
	case s.claimAfter < 0:
		return fmt.Errorf("--claim-after is %d: it must be at least 1", s.claimAfter)
	case s.authBound < 0:
		return fmt.Errorf("--auth-bound is %v: it must be at least 0", s.authBound)
	case s.dial <= 0:
		return fmt.Errorf("--dial-timeout is %v: it must be more than 0", s.dial)
	case s.stop < 0:
		return fmt.Errorf("--stop-timeout is %v: it must be at least 0", s.stop)
	case (s.etcd.cert == "") != (s.etcd.key == ""):
		return errors.New("--cert and --key go together")
	case (s.clients.cert == "") != (s.clients.key == ""):
		return errors.New("--cert-file and --key-file go together")
	case s.clients.ca != "" && s.clients.cert == "":
		return errors.New("--trusted-ca-file takes --cert-file and --key-file")
	case s.certAuth && s.clients.ca == "":
		return errors.New("--client-cert-auth takes --trusted-ca-file, to check the certificates with")
	case s.password != "" && name == "":
		return errors.New("--password takes --user")
	case both && s.password != "" && password != s.password:
		return errors.New("--user and --password name different passwords")
	case name != "" && cmp.Or(password, s.password) == "":
		return errors.New("--user has no password: give one as name:password, with --password or with " + envName("password"))
	case s.embedded != "" && s.flags.Changed("endpoints") && len(s.endpoints) > 1:
		return errors.New("--embedded takes one address in --endpoints")
	}
	if _, err := zapcore.ParseLevel(s.level); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	return nil
}

// config is what the proxy is made with.
func (s *settings) config(log *zap.Logger) proxy.Config {
	name, password, _ := strings.Cut(s.user, ":")
	cfg := proxy.Config{
		Endpoints: s.endpoints, Namespace: s.namespace,
		Leasing: leasing.Config{Prefix: s.prefix, TTL: s.ttl, MaxKeys: s.maxKeys, MaxBytes: s.maxBytes, ClaimAfter: s.claimAfter},
		TLS:     s.etcd.info(), ListenTLS: s.clients.info(),
		Username: name, Password: cmp.Or(password, s.password),
		DialTimeout: s.dial, AuthBound: s.authBound, AdvertiseClientURL: s.advertise, Logger: log,
	}
	if s.skipVerify && cfg.TLS == nil {
		cfg.TLS = &transport.TLSInfo{}
	}
	if cfg.TLS != nil {
		cfg.TLS.InsecureSkipVerify = s.skipVerify
	}
	if cfg.ListenTLS != nil {
		cfg.ListenTLS.ClientCertAuth = s.certAuth
	}
	return cfg
}
