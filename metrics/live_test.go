package metrics_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/memetcd"
	"github.com/etcd-leasing/leasing/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens a KV until the test ends.
func open(t *testing.T, srv *memetcd.Server, name string) *leasing.KV {
	t.Helper()
	cl := srv.NewClient(name)
	t.Cleanup(func() { cl.Close() })
	kv, err := leasing.New(t.Context(), cl, leasing.Config{Prefix: "claims/"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kv.Close() })
	return kv
}

// One KV owns a key and reads it, another takes it over: over HTTP, both tell so.
func TestLiveKVs(t *testing.T) {
	srv := memetcd.New(memetcd.Options{})
	t.Cleanup(srv.Close)
	owner, writer := open(t, srv, "owner"), open(t, srv, "writer")
	ctx, registry := t.Context(), prometheus.NewPedanticRegistry()
	for name, kv := range map[string]*leasing.KV{"owner": owner, "writer": writer} {
		registry.MustRegister(metrics.NewCollector(kv, metrics.ConstLabels(prometheus.Labels{"kv": name})))
	}
	for range 3 {
		if _, err := owner.Get(ctx, "k"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := owner.Get(ctx, "a", clientv3.WithFromKey()); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}

	web := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	t.Cleanup(web.Close)
	want := `
# HELP leasing_hits_total Gets, and transactions, that were answered from memory.
# TYPE leasing_hits_total counter
leasing_hits_total{kv="owner"} 2
leasing_hits_total{kv="writer"} 0
# HELP leasing_leases Live leases that claims hang on.
# TYPE leasing_leases gauge
leasing_leases{kv="owner"} 1
leasing_leases{kv="writer"} 1
# HELP leasing_revokes_answered_total Keys of this KV that others asked for.
# TYPE leasing_revokes_answered_total counter
leasing_revokes_answered_total{kv="owner"} 1
leasing_revokes_answered_total{kv="writer"} 0
# HELP leasing_takeovers_total Writes that were applied, and had to wait for another owner.
# TYPE leasing_takeovers_total counter
leasing_takeovers_total{kv="owner"} 0
leasing_takeovers_total{kv="writer"} 1
`
	names := []string{"leasing_hits_total", "leasing_leases", "leasing_revokes_answered_total", "leasing_takeovers_total"}
	if err := testutil.ScrapeAndCompare(web.URL, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

// A KV that is closed has no lease, and keeps its counts.
func TestClosedKV(t *testing.T) {
	srv := memetcd.New(memetcd.Options{})
	t.Cleanup(srv.Close)
	kv := open(t, srv, "kv")
	if _, err := kv.Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	kv.Close()
	want := `
# HELP leasing_to_deadline_seconds Until the first of the leases is over if it is not renewed; 0 without a lease.
# TYPE leasing_to_deadline_seconds gauge
leasing_to_deadline_seconds 0
# HELP leasing_writes_total Puts, deletions and writing transactions that were applied.
# TYPE leasing_writes_total counter
leasing_writes_total 1
`
	names := []string{"leasing_to_deadline_seconds", "leasing_writes_total"}
	if err := testutil.CollectAndCompare(metrics.NewCollector(kv), strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}
