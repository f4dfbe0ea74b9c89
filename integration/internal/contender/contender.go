// Package contender names those that are compared wherever things are
// measured or judged side by side: etcd's plain client, etcd's own leasing
// package and this library. Of each, only what a user of a clientv3.KV sees is
// used.
package contender

import (
	"runtime/debug"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	etcdleasing "go.etcd.io/etcd/client/v3/leasing"

	"github.com/etcd-leasing/leasing"
)

// Prefix is where all contenders keep their claims.
const Prefix = "leasing/"

// The contenders, by their place in All.
const (
	Plain = iota
	Theirs
	Ours
)

// Contender is one of those that are compared.
type Contender struct {
	Name  string // one word
	Title string
	// Open returns a KV on cl, and what closes it.
	Open func(cl *clientv3.Client, prefix string, opts ...concurrency.SessionOption) (clientv3.KV, func(), error)
}

// All are the contenders.
var All = [3]Contender{
	Plain: {"plain", "plain client", func(cl *clientv3.Client, _ string, _ ...concurrency.SessionOption) (clientv3.KV, func(), error) {
		return cl, func() {}, nil
	}},
	Theirs: {"etcd", "etcd's leasing", etcdleasing.NewKV},
	Ours:   {"ours", "this library", leasing.NewKV},
}

// TTL is a time to live, as every contender takes it.
func TTL(ttl time.Duration) concurrency.SessionOption {
	return concurrency.WithTTL(int(ttl / time.Second))
}

// Versions says what the contenders are, one each, and what server they were
// on; how tells how that was run.
func Versions(how string) []string {
	client := "of an unknown version"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "go.etcd.io/etcd/client/v3" {
				client = m.Version
			}
		}
	}
	return []string{
		"etcd server " + version.Version + ", " + how,
		"plain client: `go.etcd.io/etcd/client/v3` " + client,
		"etcd's leasing: `go.etcd.io/etcd/client/v3/leasing` " + client,
		"this library: `github.com/etcd-leasing/leasing`, as it is beside this file",
	}
}
