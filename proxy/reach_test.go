package proxy_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/proxy"
)

// logged gives the proxy a logger, and returns what it was told.
func logged(level zapcore.Level) (*observer.ObservedLogs, func(*proxy.Config)) {
	core, logs := observer.New(level)
	return logs, func(cfg *proxy.Config) { cfg.Logger = zap.New(core) }
}

// warnings returns what was logged at Warn or above, but for what package leasing says.
func warnings(logs *observer.ObservedLogs) (out []string) {
	for _, e := range logs.All() {
		if e.Level >= zap.WarnLevel && !strings.HasPrefix(e.Message, "leasing: ") {
			out = append(out, e.Message)
		}
	}
	return out
}

// An etcd that does not answer at the start is named, with what keeps it away.
func TestStartTellsTheCause(t *testing.T) {
	for _, user := range []string{"", "me"} {
		cfg := proxy.Config{
			Endpoints: []string{"127.0.0.1:1"}, Leasing: leasing.Config{Prefix: claims},
			Username: user, Password: user, DialTimeout: 100 * time.Millisecond,
		}
		_, err := proxy.New(t.Context(), cfg)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "dial tcp 127.0.0.1:1") {
			t.Errorf("user %q: %v", user, err)
		}
	}
}

// An outage is told of once, and so is its end, whoever asks for the health meanwhile.
func TestOutageIsLoggedOnce(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	relay := etcd.Relay(0)
	logs, withLog := logged(zap.InfoLevel)
	p := start(t, etcd, withLog, func(cfg *proxy.Config) { cfg.Endpoints = []string{relay.URL()} })
	web := httptest.NewServer(p.Handler(nil))
	defer web.Close()
	relay.Refuse()
	relay.Reset()
	for range 3 {
		if code, body := page(t, web.URL+"/health"); code != http.StatusServiceUnavailable {
			t.Errorf("without etcd: %d, %s", code, body)
		}
	}
	if w := warnings(logs); len(w) != 1 || w[0] != "etcd does not answer a read" {
		t.Errorf("in the outage: %q", w)
	}
	if err := relay.Accept(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the proxy is healthy again", func() bool {
		code, _ := page(t, web.URL+"/readyz")
		return code == http.StatusOK
	})
	if n := logs.FilterMessage("etcd answers again").Len(); n != 1 {
		t.Errorf("its end was told of %d times", n)
	}
}

// Who forgets the user where etcd asks for one is told so, once.
func TestMissingUserIsLoggedOnce(t *testing.T) {
	etcd := guarded(t)
	logs, withLog := logged(zap.InfoLevel)
	p := start(t, etcd, withLog)
	for range 3 {
		p.client("").Get(within(t), "d/k")
	}
	if w := warnings(logs); len(w) != 1 || !strings.Contains(w[0], "set --user") {
		t.Errorf("without a user: %q", w)
	}
	logs, withLog = logged(zap.InfoLevel)
	start(t, etcd, asRoot, withLog)
	if w := warnings(logs); len(w) != 1 || !strings.Contains(w[0], "in the clear") {
		t.Errorf("with a user, without TLS: %q", w)
	}
}

// TLS is not left out silently where an endpoint says so.
func TestPlainEndpointBesideTLS(t *testing.T) {
	_, err := proxy.New(t.Context(), proxy.Config{
		Endpoints: []string{"https://127.0.0.1:1", "http://127.0.0.1:2"}, Leasing: leasing.Config{Prefix: claims}, TLS: &transport.TLSInfo{},
	})
	if err == nil || !strings.Contains(err.Error(), "use https://") {
		t.Error(err)
	}
}

// A proxy before another with the same prefix could claim nothing, and write next to nothing.
// Finding that out deletes nothing.
func TestProxyBeforeItsLike(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	put(t, etcd.Client(0), claims, "not a claim")
	p := start(t, etcd)
	get(t, etcd.Client(0), claims, "not a claim")
	cfg := proxy.Config{Endpoints: []string{p.addr}, Leasing: leasing.Config{Prefix: claims}, AuthBound: longTime, DialTimeout: 30 * time.Second}
	if second, err := proxy.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "name the addresses of etcd itself") {
		t.Errorf("with the same prefix: %v, %v", second, err)
	}
	cfg.Leasing.Prefix = "others/"
	second, err := proxy.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	second.Stop(0)
}

// elsewhere is a listener that seems to be within the reach of others.
type elsewhere struct{ net.Listener }

func (elsewhere) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

// Who can be reached from elsewhere in the clear is told so.
func TestOpenListener(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	for name, tc := range map[string]struct {
		secure, open bool
		want         int
	}{"on loopback": {false, false, 0}, "in the clear": {false, true, 1}, "with TLS": {true, true, 0}} {
		logs, withLog := logged(zap.WarnLevel)
		cfg := proxy.Config{Endpoints: etcd.Endpoints(), Leasing: leasing.Config{Prefix: claims}, DialTimeout: 30 * time.Second}
		withLog(&cfg)
		if tc.secure {
			cfg.ListenTLS = newAuthority(t).named("listener", "")
		}
		p, err := proxy.New(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if tc.open {
			l = elsewhere{l}
		}
		done := make(chan error)
		go func() { done <- p.Serve(l) }()
		p.Stop(0)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if w := warnings(logs); len(w) != tc.want {
			t.Errorf("%s: %q", name, w)
		}
	}
}
