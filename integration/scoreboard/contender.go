package main

import (
	"runtime/debug"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	etcdleasing "go.etcd.io/etcd/client/v3/leasing"

	"github.com/etcd-leasing/leasing"
)

// prefix is where all contenders keep their claims.
const prefix = "leasing/"

// The contenders, by their place in a row.
const (
	plain = iota
	theirs
	ours
)

// contender is one of those that are compared. Of each, only what a user of a
// clientv3.KV sees is used.
type contender struct {
	name  string // one word
	title string
	// open returns a KV on cl, and what closes it.
	open func(cl *clientv3.Client, prefix string, opts ...concurrency.SessionOption) (clientv3.KV, func(), error)
}

var contenders = []contender{
	plain: {"plain", "plain client", func(cl *clientv3.Client, _ string, _ ...concurrency.SessionOption) (clientv3.KV, func(), error) {
		return cl, func() {}, nil
	}},
	theirs: {"etcd", "etcd's leasing", etcdleasing.NewKV},
	ours:   {"ours", "this library", leasing.NewKV},
}

// ttlOption is a time to live, as every contender takes it.
func ttlOption(ttl time.Duration) concurrency.SessionOption {
	return concurrency.WithTTL(int(ttl / time.Second))
}

// versions says what the contenders are, one each.
func versions() []string {
	client := "of an unknown version"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "go.etcd.io/etcd/client/v3" {
				client = m.Version
			}
		}
	}
	return []string{
		"etcd server " + version.Version + ", embedded, one for each cell",
		"plain client: `go.etcd.io/etcd/client/v3` " + client,
		"etcd's leasing: `go.etcd.io/etcd/client/v3/leasing` " + client,
		"this library: `github.com/etcd-leasing/leasing`, as it is beside this file",
	}
}
