package proxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/proxy"
)

// authority signs certificates into files of a directory.
type authority struct {
	tb   testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB) *authority {
	a := &authority{tb: tb, dir: tb.TempDir()}
	a.cert = &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.key = a.issue("ca", a.cert)
	return a
}

// issue writes a certificate and its key.
func (a *authority) issue(name string, cert *x509.Certificate) *ecdsa.PrivateKey {
	a.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.tb.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	cert.SerialNumber = big.NewInt(time.Now().UnixNano())
	cert.NotBefore, cert.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, signer)
	if err != nil {
		a.tb.Fatal(err)
	}
	cert.Raw = der
	bytes, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.tb.Fatal(err)
	}
	a.write(name+".crt", "CERTIFICATE", der)
	a.write(name+".key", "EC PRIVATE KEY", bytes)
	return key
}

func (a *authority) write(file, kind string, der []byte) {
	a.tb.Helper()
	if err := os.WriteFile(a.file(file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.tb.Fatal(err)
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// named issues a certificate for both ends with a common name.
func (a *authority) named(name, cn string) *transport.TLSInfo {
	a.issue(name, &x509.Certificate{
		Subject: pkix.Name{CommonName: cn}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	})
	return &transport.TLSInfo{TrustedCAFile: a.file("ca.crt"), CertFile: a.file(name + ".crt"), KeyFile: a.file(name + ".key")}
}

// TLS on both sides, with certificates asked for on both.
func TestTLS(t *testing.T) {
	a := newAuthority(t)
	etcd := startTLS(t, a)
	listener := a.named("listener", "proxy")
	listener.ClientCertAuth = true
	logs, withLog := logged(zap.WarnLevel)
	p := start(t, etcd, withLog, func(cfg *proxy.Config) { cfg.TLS, cfg.ListenTLS = a.named("pass", ""), listener })
	client, err := a.named("client", "somebody").ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	cl := p.client("", func(cfg *clientv3.Config) { cfg.TLS = client })
	put(t, cl, "k", "v")
	p.owned(cl, "k")
	if conn, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true}); err == nil {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err = conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("a client without a certificate: %v", err)
		}
		conn.Close()
	}
	eventually(t, "the log tells why", func() bool {
		w := warnings(logs)
		return len(w) == 1 && w[0] == "no TLS with a client"
	})
}

func startTLS(t *testing.T, a *authority) *etcdtest.Cluster {
	t.Helper()
	info := a.named("etcd", "")
	info.ClientCertAuth = true
	return etcdtest.Start(t, etcdtest.QuickTicks(), etcdtest.TLS(), etcdtest.Embed(func(cfg *embed.Config) { cfg.ClientTLSInfo = *info }))
}

// A certificate for etcd that bears a name is refused, at the start and later: where
// etcd takes such names for users, nobody would be served as that user.
func TestNamedCertificateIsRefused(t *testing.T) {
	a := newAuthority(t)
	etcd := startTLS(t, a)
	cfg := proxy.Config{
		Endpoints: etcd.Endpoints(), Leasing: leasing.Config{Prefix: claims}, TLS: a.named("pass", "root"), DialTimeout: 10 * time.Second,
	}
	if p, err := proxy.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), `common name "root"`) {
		t.Errorf("a certificate of root's: %v, %v", p, err)
	}
	cfg.TLS = a.named("pass", "")
	p, err := proxy.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.Stop(0)
}
