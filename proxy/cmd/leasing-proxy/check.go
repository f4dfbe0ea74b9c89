package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
)

// check refuses what cannot be meant, before anybody is asked for anything, and puts
// addresses into the form that the rest of the program takes.
func (s *settings) check() error {
	for _, part := range []func() error{s.checkSpaces, s.checkBounds, s.checkTLS, s.checkUser, s.checkEndpoints, s.checkListeners} {
		if err := part(); err != nil {
			return err
		}
	}
	if _, err := zapcore.ParseLevel(s.level); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	return nil
}

func (s *settings) checkSpaces() error {
	switch {
	case s.prefix == "":
		return errors.New("--leasing-prefix is empty: name a prefix that holds no data")
	case s.namespace != "" && strings.HasPrefix(s.prefix, s.namespace):
		return fmt.Errorf("--leasing-prefix %q is in the --namespace %q, where clients would see claims: choose another", s.prefix, s.namespace)
	case s.namespace != "" && strings.HasPrefix(s.namespace, s.prefix):
		return fmt.Errorf("--namespace %q is under the --leasing-prefix %q, where data is taken for claims: choose another", s.namespace, s.prefix)
	case strings.HasSuffix(s.namespace, "\xff"):
		return fmt.Errorf("--namespace %q ends with the byte 0xff, where etcd's client ends ranges too late: choose another", s.namespace)
	}
	return nil
}

// What package leasing takes.
const (
	maxTTL   = 365 * 24 * time.Hour
	minBytes = 260
)

func (s *settings) checkBounds() error {
	switch {
	case s.ttl < 0 || s.ttl > 0 && s.ttl < time.Second || s.ttl > maxTTL:
		return fmt.Errorf("--ttl is %v: it must be at least 1s and at most %v, or 0 for the default", s.ttl, maxTTL)
	case s.maxKeys < 0:
		return fmt.Errorf("--max-keys is %d: it must be at least 1, or 0 for the default", s.maxKeys)
	case s.maxBytes < 0 || s.maxBytes > 0 && s.maxBytes < minBytes:
		return fmt.Errorf("--max-bytes is %d: it must be at least %d, or 0 for no bound", s.maxBytes, minBytes)
	case s.claimAfter < 0:
		return fmt.Errorf("--claim-after is %d: it must be at least 1, or 0 for the default", s.claimAfter)
	case s.authBound < 0:
		return fmt.Errorf("--auth-bound is %v: it must be at least 0", s.authBound)
	case s.dial <= 0:
		return fmt.Errorf("--dial-timeout is %v: it must be more than 0", s.dial)
	case s.stop < 0:
		return fmt.Errorf("--stop-timeout is %v: it must be at least 0", s.stop)
	}
	return nil
}

func (s *settings) checkTLS() error {
	switch {
	case (s.etcd.cert == "") != (s.etcd.key == ""):
		return errors.New("--cert and --key go together")
	case (s.clients.cert == "") != (s.clients.key == ""):
		return errors.New("--cert-file and --key-file go together")
	case s.clients.ca != "" && s.clients.cert == "":
		return errors.New("--trusted-ca-file takes --cert-file and --key-file")
	case s.certAuth && s.clients.ca == "":
		return errors.New("--client-cert-auth takes --trusted-ca-file, to check the certificates with")
	case s.clients.ca != "" && s.flags.Changed("client-cert-auth") && !s.certAuth:
		return errors.New("--trusted-ca-file asks clients for a certificate, --client-cert-auth=false does not: leave out one of them")
	}
	for _, flag := range []string{"cacert", "trusted-ca-file"} {
		if err := checkCA(s.flags.Lookup(flag).Value.String()); err != nil {
			return fmt.Errorf("--%s: %w", flag, err)
		}
	}
	if err := checkPair(s.etcd); err != nil {
		return fmt.Errorf("--cert and --key: %w", err)
	}
	if err := checkPair(s.clients); err != nil {
		return fmt.Errorf("--cert-file and --key-file: %w", err)
	}
	return nil
}

// checkCA returns an error if there is a name, and no file by it that holds certificates.
func checkCA(name string) error {
	if name == "" {
		return nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return fmt.Errorf("there is no certificate in %s", name)
	}
	return nil
}

// checkPair returns an error if there are names, and no certificate and its key by them.
func checkPair(f tlsFlags) error {
	if f.cert == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(f.cert, f.key); err != nil {
		return fmt.Errorf("%s and %s: %w", f.cert, f.key, err)
	}
	return nil
}

func (s *settings) checkUser() error {
	name, password, both := strings.Cut(s.user, ":")
	switch {
	case s.password != "" && name == "":
		return errors.New("--password takes --user")
	case both && s.password != "" && password != s.password:
		return errors.New("--user and --password name different passwords")
	case name != "" && cmp.Or(password, s.password) == "":
		return errors.New("--user has no password: give one as name:password, with --password or with " + envName("password"))
	}
	return nil
}

// checkEndpoints gives each address its scheme. They are all of one kind, as etcd's
// client goes by the first of them.
func (s *settings) checkEndpoints() error {
	secure, scheme := s.etcd != tlsFlags{} || s.skipVerify, "http"
	if secure {
		scheme = "https"
	}
	var full []string
	for _, addr := range s.endpoints {
		e, err := endpoint(addr, scheme)
		if err != nil {
			return fmt.Errorf("--endpoints: %w", err)
		}
		full = append(full, e)
	}
	s.endpoints = full
	plain := slices.ContainsFunc(s.endpoints, func(e string) bool { return strings.HasPrefix(e, "http://") })
	mixed := plain && slices.ContainsFunc(s.endpoints, func(e string) bool { return strings.HasPrefix(e, "https://") })
	switch {
	case len(s.endpoints) == 0:
		return errors.New("--endpoints is empty: name at least one address of etcd")
	case s.embedded != "" && secure:
		return errors.New("--embedded runs an etcd without TLS: leave out --cacert, --cert, --key and --insecure-skip-tls-verify")
	case s.embedded != "" && s.flags.Changed("endpoints"):
		return s.checkEmbedded()
	case secure && plain:
		return errors.New("--cacert, --cert and --key take https:// in --endpoints, and so does --insecure-skip-tls-verify")
	case mixed:
		return errors.New("--endpoints has addresses with https:// beside others: put it before all of them")
	}
	return nil
}

// checkEmbedded refuses addresses that the embedded etcd does not listen at.
func (s *settings) checkEmbedded() error {
	if len(s.endpoints) > 1 {
		return errors.New("--embedded takes one address in --endpoints")
	}
	u, err := url.Parse(s.endpoints[0])
	if err != nil {
		return fmt.Errorf("--endpoints: %w", err)
	}
	ip := net.ParseIP(u.Hostname())
	switch {
	case u.Scheme != "http":
		return errors.New("--embedded runs an etcd without TLS: leave out https:// in --endpoints")
	case u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()):
		return fmt.Errorf("--embedded would listen at %s, where others can reach it: use 127.0.0.1 in --endpoints", u.Host)
	}
	return nil
}

// endpoint returns an address of etcd with a scheme, which is the given one if it has
// none.
func endpoint(addr, scheme string) (string, error) {
	full := strings.TrimSpace(addr)
	if !strings.Contains(full, "://") {
		full = scheme + "://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !isPort(u.Port()) ||
		strings.TrimSuffix(full, "/") != u.Scheme+"://"+u.Host {
		return "", fmt.Errorf("%q must be host:port, with http:// or https:// before it or nothing", addr)
	}
	return u.Scheme + "://" + u.Host, nil
}

// checkListeners refuses addresses that nobody can listen at, or reach. Before that for
// metrics http:// may stand, as in etcd's flags.
func (s *settings) checkListeners() error {
	s.metrics = strings.TrimPrefix(s.metrics, "http://")
	for _, flag := range []string{"listen-addr", "metrics-addr"} {
		addr := s.flags.Lookup(flag).Value.String()
		if flag == "metrics-addr" && addr == "" {
			continue
		}
		if _, port, err := net.SplitHostPort(addr); err != nil || !isPort(port) {
			return fmt.Errorf("--%s is %q: it must be host:port, without a scheme", flag, addr)
		}
	}
	for _, e := range s.endpoints {
		if s.isOwn(e) {
			return fmt.Errorf("--endpoints names %s, where the proxy itself is to listen (--listen-addr): name the addresses of etcd", e)
		}
	}
	if s.advertise == "" {
		return nil
	}
	full, err := endpoint(s.advertise, "")
	if err != nil {
		return fmt.Errorf("--advertise-client-url: %q must be http://host:port or https://host:port", s.advertise)
	}
	s.advertise = full
	return nil
}

// isOwn reports whether an address of etcd is where the proxy listens, on this host.
func (s *settings) isOwn(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	host, port, err := net.SplitHostPort(s.listen)
	if err != nil || port != u.Port() || port == "0" {
		return false
	}
	own, other := address(host), address(u.Hostname())
	everywhere := host == "" || own.IsUnspecified()
	return host == u.Hostname() || own != nil && own.Equal(other) || everywhere && other.IsLoopback()
}

// address is what a host's name says of its address, and else nil.
func address(host string) net.IP {
	if host == "localhost" {
		return net.IPv4(127, 0, 0, 1)
	}
	return net.ParseIP(host)
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}
