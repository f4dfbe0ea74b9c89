package proxy

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/etcdhttp"

	"github.com/etcd-leasing/leasing/metrics"
)

// healthTimeout is how long etcd may take to answer for the proxy's health.
const healthTimeout = time.Second

// Handler serves the metrics of the KV, the process and the gRPC server, and what
// Config.Gatherer has, at /metrics; whether etcd answers a linearizable read at
// /health, in etcd's words; and at /readyz whether the proxy also serves. Paths that
// extra names are served by its handlers.
func (s *Server) Handler(extra map[string]http.Handler) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(metrics.NewCollector(s.kv), s.calls, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gatherers := prometheus.Gatherers{reg}
	if s.cfg.Gatherer != nil {
		gatherers = append(gatherers, s.cfg.Gatherer)
	}
	health := etcdhttp.NewHealthHandler(quiet(s.cfg.Logger), func(ctx context.Context, _ etcdhttp.StringSet, _ bool) etcdhttp.Health { return s.checkEtcd(ctx) })
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(gatherers, promhttp.HandlerOpts{}))
	mux.Handle("/health", health)
	mux.Handle("/readyz", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.ctx.Err() != nil {
			http.Error(w, "the proxy is stopping", http.StatusServiceUnavailable)
			return
		}
		health(w, r)
	}))
	for path, h := range extra {
		mux.Handle(path, h)
	}
	return mux
}

// checkEtcd asks etcd for a key. A refusal for lack of rights is an answer, too.
func (s *Server) checkEtcd(ctx context.Context) etcdhttp.Health {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	err := s.askAnonymously(ctx)
	if answered(err) {
		return etcdhttp.Health{Health: "true"}
	}
	return etcdhttp.Health{Health: "false", Reason: fmt.Sprintf("etcd does not answer a read: %v", err)}
}
