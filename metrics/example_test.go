package metrics_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/memetcd"
	"github.com/etcd-leasing/leasing/metrics"
)

func ExampleNewCollector() {
	srv := memetcd.New(memetcd.Options{}) // stands for a real etcd
	defer srv.Close()
	cl := srv.NewClient("example")
	defer cl.Close()
	ctx := context.Background()
	kv, err := leasing.New(ctx, cl, leasing.Config{Prefix: "leasing/"})
	if err != nil {
		log.Fatal(err)
	}
	defer kv.Close()

	registry := prometheus.NewRegistry()
	if err := registry.Register(metrics.NewCollector(kv)); err != nil {
		log.Fatal(err)
	}
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{}) // to be served as /metrics

	kv.Get(ctx, "greeting") // claims the key
	kv.Get(ctx, "greeting") // from memory

	reply := httptest.NewRecorder() // stands for Prometheus
	handler.ServeHTTP(reply, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(reply.Body.String()) {
		if strings.HasPrefix(line, "leasing_hits_total") {
			fmt.Print(line)
		}
	}
	// Output: leasing_hits_total 1
}

// Two KVs of one process.
func ExampleConstLabels() {
	var users, orders *leasing.KV // opened as in the other example

	prometheus.MustRegister(
		metrics.NewCollector(users, metrics.ConstLabels(prometheus.Labels{"kv": "users"})),
		metrics.NewCollector(orders, metrics.ConstLabels(prometheus.Labels{"kv": "orders"})),
	)
}
