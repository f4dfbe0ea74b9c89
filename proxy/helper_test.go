package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/proxy"
)

// TestMain fails if any goroutine is left: of a proxy, a client or a member.
func TestMain(m *testing.M) {
	code := m.Run()
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if err = goleak.Find(); err == nil {
			break
		}
	}
	if code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const (
	claims   = "leasing/"
	longTime = time.Hour // longer than any test
)

// served is a proxy that serves at an address.
type served struct {
	*proxy.Server
	tb   testing.TB
	addr string
}

// start starts a proxy before etcd, which ends with the test.
func start(tb testing.TB, etcd *etcdtest.Cluster, change ...func(*proxy.Config)) *served {
	tb.Helper()
	cfg := proxy.Config{
		Endpoints: etcd.Endpoints(), Leasing: leasing.Config{Prefix: claims},
		DialTimeout: 30 * time.Second, AuthBound: longTime,
	}
	for _, c := range change {
		c(&cfg)
	}
	p, err := proxy.New(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.Stop(0)
		tb.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Serve(l) }()
	tb.Cleanup(func() {
		p.Stop(time.Second)
		if err := <-done; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	return &served{p, tb, l.Addr().String()}
}

// client returns a client of the proxy; name may be empty.
func (s *served) client(name string, change ...func(*clientv3.Config)) *clientv3.Client {
	s.tb.Helper()
	cfg := etcdtest.ClientConfig([]string{s.addr})
	cfg.Username, cfg.Password = name, name
	for _, c := range change {
		c(&cfg)
	}
	cl, err := clientv3.New(cfg)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { cl.Close() })
	return cl
}

// conn returns a connection to the proxy that tries nothing again, which etcd's client
// does.
func (s *served) conn() *grpc.ClientConn {
	s.tb.Helper()
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { conn.Close() })
	return conn
}

func within(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	tb.Cleanup(cancel)
	return ctx
}

// get reads a key and fails unless it has the value; "" stands for none.
func get(tb testing.TB, kv clientv3.KV, key, want string, opts ...clientv3.OpOption) {
	tb.Helper()
	resp, err := kv.Get(within(tb), key, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	got := ""
	if len(resp.Kvs) > 0 {
		got = string(resp.Kvs[0].Value)
	}
	if got != want {
		tb.Fatalf("%s is %q, want %q", key, got, want)
	}
}

func put(tb testing.TB, kv clientv3.KV, key, val string) {
	tb.Helper()
	if _, err := kv.Put(within(tb), key, val); err != nil {
		tb.Fatal(err)
	}
}

// eventually waits until ok.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("it did not come to this: %s", what)
		}
	}
}

// owned reads a key through the proxy until that is answered from memory.
func (s *served) owned(kv clientv3.KV, key string) {
	s.tb.Helper()
	eventually(s.tb, key+" is read from memory", func() bool {
		before := s.KV().Stats().Hits
		if _, err := kv.Get(within(s.tb), key); err != nil {
			s.tb.Fatal(err)
		}
		return s.KV().Stats().Hits > before
	})
}

// claimed reports which keys are claimed, as seen by a plain client.
func claimed(tb testing.TB, plain *clientv3.Client) (keys []string) {
	tb.Helper()
	resp, err := plain.Get(within(tb), claims, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		tb.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		keys = append(keys, strings.TrimPrefix(string(kv.Key), claims))
	}
	return keys
}

// meter is where a member tells its metrics.
type meter string

// metered is an option for a cluster of one member, and where its metrics are.
func metered(tb testing.TB) (meter, etcdtest.Option) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	return meter("http://" + addr + "/metrics"), etcdtest.Embed(func(cfg *embed.Config) {
		cfg.ListenMetricsUrls = embedURLs("http://" + addr)
	})
}

// handled is how many KV requests of a kind the member has answered.
func (m meter) handled(tb testing.TB, methods ...string) (n int) {
	tb.Helper()
	resp, err := http.Get(string(m))
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		line := lines.Text()
		for _, method := range methods {
			if strings.HasPrefix(line, "grpc_server_handled_total{") && strings.Contains(line, `grpc_method="`+method+`"`) {
				v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
				if err != nil {
					tb.Fatal(err)
				}
				n += int(v)
			}
		}
	}
	return n
}

func embedURLs(s string) []url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return []url.URL{*u}
}
