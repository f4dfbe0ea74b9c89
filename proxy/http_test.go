package proxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// page returns the status and the body of a page.
func page(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}

// Metrics, health and readiness, without authentication and with it.
func TestHandler(t *testing.T) {
	for name, etcd := range map[string]*etcdtest.Cluster{"open": etcdtest.Start(t, etcdtest.QuickTicks()), "guarded": guarded(t)} {
		t.Run(name, func(t *testing.T) {
			p := start(t, etcd, bounded(time.Second))
			extra := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "extra") })
			web := httptest.NewServer(p.Handler(map[string]http.Handler{"/debug/leasing": extra}))
			defer web.Close()
			for _, path := range []string{"/health", "/readyz"} {
				if code, body := page(t, web.URL+path); code != http.StatusOK || body != `{"health":"true","reason":""}` {
					t.Errorf("%s: %d, %s", path, code, body)
				}
			}
			if _, body := page(t, web.URL+"/debug/leasing"); body != "extra" {
				t.Errorf("extra: %s", body)
			}
			p.client("").Get(within(t), "k")
			_, body := page(t, web.URL+"/metrics")
			for _, metric := range []string{"go_goroutines ", `grpc_server_handled_total{`, "process_start_time_seconds ", "leasing_"} {
				if !strings.Contains(body, metric) {
					t.Errorf("no metric %s", metric)
				}
			}
			if strings.Contains(body, `grpc_method="Compact"`) {
				t.Error("a metric of a method that nobody has called")
			}
			etcd.Stop(0)
			if code, body := page(t, web.URL+"/health"); code != http.StatusServiceUnavailable || !strings.Contains(body, `"health":"false"`) {
				t.Errorf("health without etcd: %d, %s", code, body)
			}
			p.Stop(0)
			if code, body := page(t, web.URL+"/readyz"); code != http.StatusServiceUnavailable || body != "the proxy is stopping" {
				t.Errorf("readiness at the end: %d, %s", code, body)
			}
		})
	}
}
