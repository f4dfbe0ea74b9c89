package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/etcd-leasing/leasing/proxy"
)

func parsed(t *testing.T, args, environ string) (*settings, error) {
	t.Helper()
	s := newSettings(io.Discard)
	return s, s.parse(strings.Fields(args), strings.Fields(environ))
}

// Every flag has a variable, which it overrides, and both mean the same.
func TestEnvironment(t *testing.T) {
	values := map[string][2]string{
		"string": {"one", "two"}, "stringSlice": {"one,two", "three"}, "duration": {"2s", "3s"},
		"int": {"2", "3"}, "int64": {"2", "3"}, "bool": {"true", "false"},
	}
	newSettings(io.Discard).flags.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		v, ok := values[f.Value.Type()]
		if !ok {
			t.Fatalf("--%s has type %s", f.Name, f.Value.Type())
		}
		name := "LEASING_PROXY_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		byFlag, byEnv, both := newSettings(io.Discard), newSettings(io.Discard), newSettings(io.Discard)
		byFlag.parse([]string{"--" + f.Name + "=" + v[0]}, nil) // some do not go alone, but they are read
		byEnv.parse(nil, []string{name + "=" + v[0]})
		both.parse([]string{"--" + f.Name + "=" + v[0]}, []string{name + "=" + v[1]})
		want := byFlag.flags.Lookup(f.Name).Value.String()
		if got := byEnv.flags.Lookup(f.Name).Value.String(); got != want || !strings.Contains(want, strings.Split(v[0], ",")[0]) {
			t.Errorf("%s gives %s, the flag %s", name, got, want)
		}
		if got := both.flags.Lookup(f.Name).Value.String(); got != want {
			t.Errorf("%s overrides the flag: %s", name, got)
		}
	})
}

func TestUnknownVariables(t *testing.T) {
	s, err := parsed(t, "", "LEASING_PROXY_ENDPOINT=x LEASING_PROXY_TTL=3s ETCD_NAME=y PATH=/bin LEASING_PROXY_=z LEASING_PROXY_PORTS=1")
	if err != nil || !slices.Equal(s.unknown, []string{"LEASING_PROXY_ENDPOINT", "LEASING_PROXY_", "LEASING_PROXY_PORTS"}) || s.ttl != 3*time.Second {
		t.Errorf("%q, %v, %v", s.unknown, s.ttl, err)
	}
}

// What Kubernetes sets for a service of the proxy's name is not meant for it, and what is
// empty counts as unset.
func TestVariablesWithoutMeaning(t *testing.T) {
	s, err := parsed(t, "", "LEASING_PROXY_SERVICE_HOST=10.0.0.1 LEASING_PROXY_SERVICE_PORT=23790 LEASING_PROXY_SERVICE_PORT_GRPC=23790"+
		" LEASING_PROXY_PORT=tcp://10.0.0.1:23790 LEASING_PROXY_PORT_23790_TCP=tcp://10.0.0.1:23790 LEASING_PROXY_PORT_23790_TCP_PROTO=tcp"+
		" LEASING_PROXY_ENDPOINTS= LEASING_PROXY_TTL= LEASING_PROXY_CACERT= LEASING_PROXY_NONE=")
	if err != nil || len(s.unknown) > 0 || s.ttl != 0 || !slices.Equal(s.endpoints, []string{"http://127.0.0.1:2379"}) {
		t.Errorf("%q, %v, %q, %v", s.unknown, s.ttl, s.endpoints, err)
	}
}

// Addresses of etcd get a scheme, which is that of all.
func TestEndpoints(t *testing.T) {
	files(t, "ca")
	for _, tc := range []struct{ args, want string }{
		{"--endpoints=a:1,b:2", "http://a:1 http://b:2"},
		{"--endpoints=https://a:1,https://[::1]:2/", "https://a:1 https://[::1]:2"},
		{"--endpoints=a:1,https://b:2 --cacert=ca", "https://a:1 https://b:2"},
		{"--endpoints=a:1 --insecure-skip-tls-verify", "https://a:1"},
		{"--embedded=d --endpoints=localhost:1", "http://localhost:1"},
		{"--embedded=d --endpoints=[::1]:1", "http://[::1]:1"},
		{"--endpoints=a:5,127.0.0.1:6,127.0.0.2:5 --listen-addr=127.0.0.1:5", "http://a:5 http://127.0.0.1:6 http://127.0.0.2:5"},
	} {
		if s, err := parsed(t, tc.args, ""); err != nil || strings.Join(s.endpoints, " ") != tc.want {
			t.Errorf("%s: %q, %v", tc.args, s.endpoints, err)
		}
	}
	s := newSettings(io.Discard)
	if err := s.parse([]string{"--endpoints", " a:1, b:2 ", "--metrics-addr=http://:3"}, nil); err != nil || s.metrics != ":3" ||
		!slices.Equal(s.endpoints, []string{"http://a:1", "http://b:2"}) {
		t.Errorf("%q, %q, %v", s.endpoints, s.metrics, err)
	}
}

// files makes files that each hold the same certificate and its key, and lets the test run
// where they are.
func files(t *testing.T, names ...string) {
	t.Helper()
	t.Chdir(t.TempDir())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	for _, name := range names {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be meant is refused with the name of the flag, or of the variable.
func TestRefusals(t *testing.T) {
	files(t, "a", "b")
	if err := os.WriteFile("empty", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ args, environ, says string }{
		{"--endpoints=", "", "--endpoints"},
		{"--endpoints=a:1,,b:1", "", "--endpoints"},
		{"--endpoints=a", "", "host:port"},
		{"--endpoints=a:", "", "host:port"},
		{"--endpoints=:1", "", "host:port"},
		{"--endpoints=a:65536", "", "host:port"},
		{"--endpoints=unix:///run/etcd", "", "host:port"},
		{"--endpoints=http://a:1/b", "", "host:port"},
		{"--endpoints=a:1,https://b:1", "", "https://"},
		{"--endpoints=http://a:1 --cacert=a", "", "--cacert, --cert and --key take https://"},
		{"--endpoints=https://a:1,http://b:1 --cert=a --key=b", "", "--cacert, --cert and --key take https://"},
		{"--endpoints=http://a:1 --insecure-skip-tls-verify", "", "--insecure-skip-tls-verify"},
		{"--listen-addr=", "", "--listen-addr"},
		{"--listen-addr=127.0.0.1", "", "--listen-addr"},
		{"--listen-addr=http://127.0.0.1:1", "", "without a scheme"},
		{"--metrics-addr=127.0.0.1:http", "", "--metrics-addr"},
		{"--metrics-addr=https://127.0.0.1:1", "", "--metrics-addr"},
		{"--cacert=none", "", "--cacert: open none"},
		{"--cacert=empty", "", "--cacert: there is no certificate in empty"},
		{"--trusted-ca-file=empty --cert-file=a --key-file=b", "", "--trusted-ca-file: there is no certificate in empty"},
		{"--cert=none --key=b", "", "--cert and --key: none and b: open none"},
		{"--cert-file=a --key-file=none", "", "--cert-file and --key-file: a and none: open none"},
		{"--cert-file=empty --key-file=b", "", "--cert-file and --key-file: empty and b: "},
		{"--endpoints=127.0.0.1:23790", "", "--listen-addr"},
		{"--endpoints=a:1,localhost:5 --listen-addr=:5", "", "name the addresses of etcd"},
		{"--endpoints=a:5 --listen-addr=a:5", "", "name the addresses of etcd"},
		{"--endpoints=localhost:5 --listen-addr=127.0.0.1:5", "", "name the addresses of etcd"},
		{"--endpoints=[::1]:5 --listen-addr=[::]:5", "", "name the addresses of etcd"},
		{"--advertise-client-url=a:1", "", "--advertise-client-url"},
		{"--advertise-client-url=http://a", "", "--advertise-client-url"},
		{"--leasing-prefix=", "", "--leasing-prefix"},
		{"--namespace=leas", "", "--namespace"},
		{"--namespace=leasing/app/", "", "--leasing-prefix"},
		{"--namespace=app\xff", "", "--namespace"},
		{"--ttl=1ms", "", "--ttl"},
		{"--ttl=-1s", "", "0 for the default"},
		{"--ttl=10000h", "", "--ttl"},
		{"--ttl=soon", "", "--ttl"},
		{"--max-keys=-1", "", "--max-keys"},
		{"--max-bytes=-1", "", "--max-bytes"},
		{"--max-bytes=259", "", "--max-bytes"},
		{"--claim-after=-1", "", "--claim-after"},
		{"--auth-bound=-1s", "", "--auth-bound"},
		{"--dial-timeout=0", "", "--dial-timeout"},
		{"--stop-timeout=-1s", "", "--stop-timeout"},
		{"--cert=a", "", "--key"},
		{"--key=a", "", "--cert"},
		{"--cert-file=a", "", "--key-file"},
		{"--trusted-ca-file=a", "", "--cert-file"},
		{"--client-cert-auth --cert-file=a --key-file=b", "", "--trusted-ca-file"},
		{"--client-cert-auth=false --trusted-ca-file=a --cert-file=a --key-file=b", "", "--client-cert-auth=false"},
		{"--password=a", "", "--user"},
		{"--user=a", "", "LEASING_PROXY_PASSWORD"},
		{"--user=a:b --password=c", "", "--password"},
		{"--log-level=loud", "", "--log-level"},
		{"--embedded=d --endpoints=127.0.0.1:1,127.0.0.1:2", "", "--embedded takes one address"},
		{"--embedded=d --endpoints=https://127.0.0.1:1", "", "--embedded"},
		{"--embedded=d --endpoints=192.0.2.1:1", "", "others can reach it"},
		{"--embedded=d --cacert=a", "", "--embedded"},
		{"", "LEASING_PROXY_TTL=soon", "LEASING_PROXY_TTL"},
		{"", "LEASING_PROXY_MAX_KEYS=-1", "--max-keys"},
		{"", "LEASING_PROXY_PASSWORD=x", "--user"},
	} {
		_, err := parsed(t, tc.args, tc.environ)
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s %s: %v", tc.args, tc.environ, err)
		}
	}
}

// What is given arrives where it belongs.
func TestConfig(t *testing.T) {
	files(t, "c", "d", "e", "f", "g", "h")
	s, err := parsed(t, "--endpoints=https://a:1,b:2 --namespace=app/ --leasing-prefix=l/ --ttl=3s --max-keys=4 --max-bytes=500 --claim-after=6"+
		" --auth-bound=7s --dial-timeout=8s --advertise-client-url=http://u:1/ --user=me:a:b --cacert=c --cert=d --key=e --insecure-skip-tls-verify"+
		" --trusted-ca-file=f --cert-file=g --key-file=h --client-cert-auth", "")
	if err != nil {
		t.Fatal(err)
	}
	log := zap.NewNop()
	got := s.config(log)
	var want proxy.Config
	want.Endpoints, want.Namespace = []string{"https://a:1", "https://b:2"}, "app/"
	want.Leasing.Prefix, want.Leasing.TTL, want.Leasing.MaxKeys, want.Leasing.MaxBytes, want.Leasing.ClaimAfter = "l/", 3*time.Second, 4, 500, 6
	want.AuthBound, want.DialTimeout, want.AdvertiseClientURL = 7*time.Second, 8*time.Second, "http://u:1"
	want.Username, want.Password, want.Logger = "me", "a:b", log
	want.TLS, want.ListenTLS = tlsFlags{"c", "d", "e"}.info(), tlsFlags{"f", "g", "h"}.info()
	want.TLS.InsecureSkipVerify, want.ListenTLS.ClientCertAuth = true, true
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	s, err = parsed(t, "--user=me", "LEASING_PROXY_PASSWORD=secret")
	if got := s.config(log); err != nil || got.Password != "secret" || got.Leasing.MaxBytes != 256<<20 || got.TLS != nil || got.ListenTLS != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if s, err = parsed(t, "--insecure-skip-tls-verify", ""); err != nil || !s.config(log).TLS.InsecureSkipVerify {
		t.Errorf("%v", err)
	}
}
