package leasing

import (
	"context"
	"errors"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestServersThatAreTooOld(t *testing.T) {
	for version, want := range map[string]bool{
		"3.4.30": true, "3.5.0": true, "3.5.27": true, "3.5.28": false, "3.5.40": false,
		"3.6.0": true, "3.6.8": true, "3.6.9": false, "3.6.10": false, "3.7.0": false, "3.7.0-rc.0": true, "3.7.1-rc.0": false, "3.7.3": false, "4.0.0": false,
		"2.3.8": true, "3.6.9-rc.0": true, "": false, "unknown": false,
	} {
		if got := tooOld(version); got != want {
			t.Errorf("%q is too old: %v", version, got)
		}
	}
}

// versions are what the members of a cluster tell of themselves.
type versions map[string]string

func (vs versions) Status(_ context.Context, endpoint string) (*clientv3.StatusResponse, error) {
	v, ok := vs[endpoint]
	if !ok {
		return nil, errors.New("no answer")
	}
	return &clientv3.StatusResponse{Version: v}, nil
}

// A server that is too old is warned of, one that does not answer is let be.
func TestServerCheck(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	s := session{
		ctx: t.Context(), log: zap.New(core),
		servers:   versions{"new": "3.7.3", "old": "3.6.8"},
		endpoints: []string{"away", "new", "old"},
	}
	s.checkServers()
	warned := logs.FilterMessageSnippet("too old").All()
	if logs.Len() != 1 || len(warned) != 1 || warned[0].ContextMap()["endpoint"] != "old" || warned[0].ContextMap()["version"] != "3.6.8" {
		t.Errorf("logs: %v", logs.All())
	}
}
