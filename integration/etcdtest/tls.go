package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// certificates are those of one cluster: of its authority, its members and
// its clients. The members read theirs from files.
type certificates struct {
	server transport.TLSInfo
	client *tls.Config
}

func newCertificates(dir string) (*certificates, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	server, err1 := ca.issue(2, x509.ExtKeyUsageServerAuth)
	client, err2 := ca.issue(3, x509.ExtKeyUsageClientAuth)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	info := transport.TLSInfo{
		CertFile:       filepath.Join(dir, "server.crt"),
		KeyFile:        filepath.Join(dir, "server.key"),
		TrustedCAFile:  filepath.Join(dir, "ca.crt"),
		ClientCertAuth: true,
	}
	pair, err := tls.X509KeyPair(client.cert, client.key)
	if err := errors.Join(err,
		os.WriteFile(info.CertFile, server.cert, 0o600),
		os.WriteFile(info.KeyFile, server.key, 0o600),
		os.WriteFile(info.TrustedCAFile, toPEM("CERTIFICATE", ca.cert.Raw), 0o600),
	); err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return &certificates{
		server: info,
		client: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}, nil
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issued is a certificate and its key, both as PEM.
type issued struct{ cert, key []byte }

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template(1)
	t.Subject = pkix.Name{CommonName: "etcdtest"}
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert: cert, key: key}, err
}

// issue makes a certificate for loopback. It has no common name, as etcd would
// take that for the name of a user.
func (ca *authority) issue(serial int64, usage x509.ExtKeyUsage) (issued, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return issued{}, err
	}
	t := template(serial)
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{usage}
	t.IPAddresses, t.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	der, err1 := x509.CreateCertificate(rand.Reader, t, ca.cert, &key.PublicKey, ca.key)
	pkcs8, err2 := x509.MarshalPKCS8PrivateKey(key)
	return issued{cert: toPEM("CERTIFICATE", der), key: toPEM("PRIVATE KEY", pkcs8)}, errors.Join(err1, err2)
}

func template(serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

func toPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
