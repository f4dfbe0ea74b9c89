package main

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.uber.org/zap"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/proxy"
)

// envPrefix begins the names of environment variables. It is not etcd's, as an etcd
// on the same host may have those.
const envPrefix = "LEASING_PROXY_"

// kubernetesNames match the variables that Kubernetes sets in every pod beside a
// service with the name leasing-proxy. They are not meant for us, and no flag is called
// so.
const kubernetesNames = "^" + envPrefix + "(SERVICE_HOST|(SERVICE_)?PORT(_.*)?)$"

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

	f.StringSliceVar(&s.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "`addresses` of etcd, host:port, separated by commas, with http:// or https:// before all or none, which means https:// beside --cacert, --cert or --key, else http://")
	f.StringVar(&s.listen, "listen-addr", "127.0.0.1:23790", "`address` to serve clients at, host:port without a scheme")
	f.StringVar(&s.metrics, "metrics-addr", "", "`address` to serve /metrics, /health, /readyz and the page /debug/leasing at, host:port, in the clear and to anybody: keep it on loopback; none if empty")
	f.StringVar(&s.advertise, "advertise-client-url", "", "`url` to show as the only member, so that clients that ask etcd for its endpoints stay here; etcd's members if empty")
	f.StringVar(&s.prefix, "leasing-prefix", "leasing/", "`prefix` of the claims in etcd, outside of the namespace; the same for every proxy and library that writes the data")
	f.StringVar(&s.namespace, "namespace", "", "`prefix` that is put before every key of clients, and taken off what they are shown")

	f.DurationVar(&s.ttl, "ttl", 0, "how long writes wait for the keys of a proxy that is cut off from etcd or was killed, which is longer than most clients' timeouts (0 for the default, 1m0s)")
	f.IntVar(&s.maxKeys, "max-keys", 0, "the most keys that are owned (0 for the default, 100000)")
	f.Int64Var(&s.maxBytes, "max-bytes", 256<<20, "the most bytes that they take in memory, about; no bound if 0")
	f.IntVar(&s.claimAfter, "claim-after", 0, "how many reads of a key within 10 s it takes to claim it (0 for the default, 1)")
	f.DurationVar(&s.authBound, "auth-bound", 5*time.Second, "how long it takes at most until a right that is withdrawn, or authentication that is turned on, ends reads from memory; also how long owned keys are read while etcd is away, if that is shorter than --ttl; with 0 nothing is read from memory")
	f.DurationVar(&s.dial, "dial-timeout", 5*time.Second, "how long to wait for etcd at the start")
	f.DurationVar(&s.stop, "stop-timeout", 5*time.Second, "how long to wait for calls under way at the end, before all keys are handed over")

	f.StringVar(&s.user, "user", "", "`name[:password]` of the proxy's own session, which needs the rights to the claims and to read the data")
	f.StringVar(&s.password, "password", "", "the password of --user, if that has none; "+envName("password")+" keeps it out of the list of processes")
	f.StringVar(&s.etcd.ca, "cacert", "", "`file` of the CAs that sign etcd's certificates")
	f.StringVar(&s.etcd.cert, "cert", "", "`file` of the certificate to show etcd; it must have no common name")
	f.StringVar(&s.etcd.key, "key", "", "`file` of its key")
	f.BoolVar(&s.skipVerify, "insecure-skip-tls-verify", false, "do not check etcd's certificates (for tests only)")
	f.StringVar(&s.clients.ca, "trusted-ca-file", "", "`file` of the CAs that sign clients' certificates; with it clients must show one")
	f.StringVar(&s.clients.cert, "cert-file", "", "`file` of the certificate to show clients")
	f.StringVar(&s.clients.key, "key-file", "", "`file` of its key")
	f.BoolVar(&s.certAuth, "client-cert-auth", false, "clients must show a certificate, which --trusted-ca-file alone says as well")

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
so on, which the flag overrides. An empty one counts as unset.

It ends with 0 on SIGTERM or SIGINT, after its keys have been handed over, with 1 if it
cannot run, and with 2 if the flags are wrong. A second signal ends it at once: writers
of its keys then wait for --ttl.

With authentication on in etcd, the first read of a key with a token goes to etcd and
claims nothing; later ones with the same token may be answered from memory. So clients
that log in for each call, as etcdctl does, gain nothing.

Beside --max-bytes it takes about 100 MB: it lets 64 MB of garbage gather before that
is collected, which saves time. Set GOGC or GOMEMLIMIT in its environment for less.

/health and /readyz say 503 while etcd is away. Use neither as a liveness probe: a
proxy that is ended then reads nothing from memory any more.
`

// envName is the environment variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// parse reads the command line, and the environment for what that does not say.
func (s *settings) parse(args, environ []string) error {
	if err := s.parseArgs(args); err != nil {
		return err
	}
	kubernetes := regexp.MustCompile(kubernetesNames)
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, envPrefix) || value == "" || kubernetes.MatchString(name) {
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
