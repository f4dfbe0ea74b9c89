package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

const (
	// maxRequest bounds what is passed on; etcd's own limit, 1.5 MiB by default, is
	// for it to tell.
	maxRequest = 16 << 20

	keepAliveTime    = 10 * time.Second // until a silent connection to etcd is tried
	keepAliveTimeout = 5 * time.Second  // and given up
)

// newOwn returns the client of the proxy's own session, with its credentials.
func newOwn(cfg Config) (*clientv3.Client, error) {
	ccfg, err := clientConfig(cfg)
	if err != nil {
		return nil, err
	}
	ccfg.Username, ccfg.Password = cfg.Username, cfg.Password
	ccfg.Context = forSession(context.Background())
	return clientv3.New(ccfg)
}

// newPass returns the client for what is sent for callers. It has no credentials
// but those of the caller. What hands these on takes the place of the client's own
// interceptors: they would send a token that etcd does not know a hundred times, and
// log each refusal. To try again is for the caller's client.
func newPass(cfg Config) (*clientv3.Client, error) {
	ccfg, err := clientConfig(cfg)
	if err != nil {
		return nil, err
	}
	ccfg.DialOptions = append(ccfg.DialOptions,
		grpc.WithUnaryInterceptor(forwardUnary), grpc.WithStreamInterceptor(forwardStream))
	return clientv3.New(ccfg)
}

func clientConfig(cfg Config) (clientv3.Config, error) {
	tlsCfg, err := clientTLS(cfg.TLS)
	if err != nil {
		return clientv3.Config{}, err
	}
	return clientv3.Config{
		Endpoints: cfg.Endpoints, TLS: tlsCfg, Logger: quiet(cfg.Logger.Named("client")),
		DialTimeout: cfg.DialTimeout, DialKeepAliveTime: keepAliveTime, DialKeepAliveTimeout: keepAliveTimeout,
		MaxCallSendMsgSize: maxRequest, MaxCallRecvMsgSize: math.MaxInt32,
		DialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(
			grpc.MaxCallSendMsgSize(maxRequest), grpc.MaxCallRecvMsgSize(math.MaxInt32))},
	}, nil
}

// quiet returns a logger for what warns of every attempt that fails, as etcd's client
// does many times a second while etcd is away. It takes errors alone, unless everything
// is to be logged.
func quiet(log *zap.Logger) *zap.Logger {
	if c := log.Core(); c.Enabled(zap.DebugLevel) || !c.Enabled(zap.ErrorLevel) {
		return log
	}
	return log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))
}

// plain reports whether etcd's client talks to an endpoint without TLS.
func plain(endpoint string, tls bool) bool {
	return strings.HasPrefix(endpoint, "http://") || !tls && !strings.HasPrefix(endpoint, "https://")
}

// clientTLS returns what connections to etcd are made with. A certificate with a
// common name is refused, now and whenever its file is read again: where etcd asks
// for certificates it takes that name for a user, and would serve requests without
// a token under it.
func clientTLS(info *transport.TLSInfo) (*tls.Config, error) {
	if info == nil {
		return nil, nil
	}
	cfg, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("proxy: TLS to etcd: %w", err)
	}
	load := cfg.GetClientCertificate
	if info.CertFile == "" || load == nil {
		return cfg, nil
	}
	cfg.GetClientCertificate = func(req *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := load(req)
		if err != nil {
			return nil, err
		}
		return cert, nameless(cert, info.CertFile)
	}
	_, err = cfg.GetClientCertificate(nil)
	return cfg, err
}

// nameless returns an error if a certificate has a common name.
func nameless(cert *tls.Certificate, file string) error {
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return fmt.Errorf("proxy: the certificate in %s: %w", file, err)
	}
	if cn := leaf.Subject.CommonName; cn != "" {
		return fmt.Errorf("proxy: the certificate in %s has the common name %q, which etcd takes for a user, "+
			"so that clients without credentials would be served as that user: use one without", file, cn)
	}
	return nil
}

// forwardUnary sends a call for a caller with the caller's credentials, unless these could
// do harm to others.
func forwardUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := checkToken(ctx); err != nil {
		return err
	}
	return invoke(forwarded(ctx), method, req, reply, cc, opts...)
}

// forwardStream is forwardUnary for streams.
func forwardStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := checkToken(ctx); err != nil {
		return nil, err
	}
	return open(forwarded(ctx), desc, cc, method, opts...)
}
