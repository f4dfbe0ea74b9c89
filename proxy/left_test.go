package proxy_test

import (
	"context"
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/proxy"
)

// Invariants: I1, I3, I6. A caller leaves while etcd's answer to a write of an owned key is on
// its way. Readers are told of the write in any case. If the answer comes, the key stays
// owned; if it does not, the grant is burnt; and the end of the proxy waits for neither.
func TestCallersLeaveTheirWrites(t *testing.T) {
	for name, tc := range map[string]struct {
		answered, stopped bool
	}{"the answer comes": {answered: true}, "it does not": {}, "the proxy stops": {stopped: true}} {
		t.Run(name, func(t *testing.T) {
			etcd := etcdtest.Start(t, etcdtest.QuickTicks())
			relay := etcd.Relay(0)
			p := start(t, etcd, func(cfg *proxy.Config) { cfg.Endpoints = []string{relay.URL()} })
			writer, reader, plain := p.client(""), p.client(""), etcd.Client(0)
			put(t, writer, "k", "v")
			p.owned(reader, "k")
			grant := grantOf(t, p)
			relay.Cut(etcdtest.Replies)
			ctx, leave := context.WithCancel(within(t))
			left := make(chan error, 1)
			go func() { _, err := writer.Put(ctx, "k", "w"); left <- err }()
			eventually(t, "etcd has written", func() bool {
				resp, err := plain.Get(within(t), "k")
				return err == nil && string(resp.Kvs[0].Value) == "w"
			})
			read := make(chan string, 1)
			go func() {
				resp, err := reader.Get(within(t), "k")
				if err != nil || len(resp.Kvs) == 0 {
					read <- "nothing"
					return
				}
				read <- string(resp.Kvs[0].Value)
			}()
			leave()
			if err := <-left; err == nil {
				t.Error("the caller had an answer")
			}
			// What is answered on the connection since tells that the proxy knows.
			if _, err := healthpb.NewHealthClient(writer.ActiveConnection()).Check(within(t), new(healthpb.HealthCheckRequest)); err != nil {
				t.Error(err)
			}
			switch {
			case tc.stopped:
				p.Stop(0)
				relay.Heal(etcdtest.Replies)
				return
			case !tc.answered:
				eventually(t, "the outcome is taken for unknown", func() bool { return p.KV().Stats().UnknownOutcomes == 1 })
			}
			relay.Heal(etcdtest.Replies)
			if v := <-read; v != "w" {
				t.Errorf("a reader is told %q", v)
			}
			get(t, reader, "k", "w")
			p.owned(reader, "k")
			get(t, reader, "k", "w")
			if kept := grantOf(t, p) == grant; kept != tc.answered || (p.KV().Stats().UnknownOutcomes == 0) != tc.answered {
				t.Errorf("the grant is kept: %v, %d outcomes are unknown", kept, p.KV().Stats().UnknownOutcomes)
			}
		})
	}
}

// grantOf is the create revision of the claim of k.
func grantOf(t *testing.T, p *served) int64 {
	t.Helper()
	resp, err := p.client("").Get(within(t), claims+"k")
	if err != nil || len(resp.Kvs) == 0 {
		t.Fatalf("no claim: %v, %v", resp, err)
	}
	return resp.Kvs[0].CreateRevision
}
