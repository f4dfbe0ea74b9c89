package leasing

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// sessionOptions is what options of package concurrency say.
type sessionOptions struct {
	ttl time.Duration
	in  handedIn
}

// readOptions finds out what opts say. They are opaque, so it opens sessions
// with them on a client whose leases only take note and refuse.
func readOptions(cl *clientv3.Client, opts []concurrency.SessionOption) sessionOptions {
	note := new(noteTaker)
	open := func(log clientv3.Option, opts []concurrency.SessionOption) {
		probe := clientv3.NewCtxClient(cl.Ctx(), log)
		defer probe.Close()
		probe.Lease, note.def = note, probe.Ctx()
		_, _ = concurrency.NewSession(probe, opts...) // always refused
	}
	open(clientv3.WithZapLogger(cl.GetLogger()), opts)
	if note.lease != clientv3.NoLease {
		// Only a session that has no lease tells its context and TTL.
		open(func(*clientv3.Client) {}, append(opts[:len(opts):len(opts)], concurrency.WithLease(clientv3.NoLease)))
	}
	if note.life == nil {
		note.life = cl.Ctx()
	}
	return sessionOptions{
		ttl: time.Duration(note.ttl) * time.Second,
		in:  handedIn{lease: note.lease, life: note.life},
	}
}

// noteTaker is a clientv3.Lease that notes what a session asks of it.
type noteTaker struct {
	clientv3.Lease
	def   context.Context // what a session uses by default
	life  context.Context // what it was told to use; nil if nothing
	ttl   int64
	lease clientv3.LeaseID
}

var errNoted = errors.New("leasing: noted")

func (n *noteTaker) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	if n.ttl = ttl; ctx != n.def {
		n.life = ctx
	}
	return nil, errNoted
}

func (n *noteTaker) KeepAlive(_ context.Context, id clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	n.lease = id
	return nil, errNoted
}

func (n *noteTaker) Close() error { return nil }
