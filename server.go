package leasing

import (
	"context"

	"github.com/coreos/go-semver/semver"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// statuser is the part of clientv3.Maintenance that is needed here.
type statuser interface {
	Status(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error)
}

// checkServers asks every server for its version, once, and warns of those that are
// too old to be relied on. Nothing else depends on the answer.
func (s *session) checkServers() {
	for _, ep := range s.endpoints {
		ctx, cancel := context.WithTimeout(s.ctx, callTimeout)
		resp, err := s.servers.Status(ctx, ep)
		cancel()
		switch {
		case err != nil:
			s.log.Debug("leasing: cannot ask a server for its version", zap.String("endpoint", ep), zap.Error(err))
		case tooOld(resp.Version):
			s.log.Warn("leasing: a server is too old: after its leader was deposed, it may renew leases that others hold to be "+
				"over, or answer linearizable reads with old data, so that reads from memory can be old, too; "+
				"use etcd 3.5.28, 3.6.9, 3.7.0 or later",
				zap.String("endpoint", ep), zap.String("version", resp.Version))
		}
	}
}

// tooOld reports whether a server of that version renews leases on deposed leaders, or
// serves stale linearizable reads. A version that is none is not held against it.
func tooOld(version string) bool {
	v, err := semver.NewVersion(version)
	if err != nil {
		return false
	}
	fixed := semver.Version{Major: 3, Minor: 5, Patch: 28}
	switch {
	case v.Major == 3 && v.Minor == 6:
		fixed = semver.Version{Major: 3, Minor: 6, Patch: 9}
	case v.Major == 3 && v.Minor == 7:
		fixed = semver.Version{Major: 3, Minor: 7}
	}
	return v.LessThan(fixed)
}
