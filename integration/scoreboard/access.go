package main

import (
	"context"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

func accessRows() []*row {
	return []*row{
		{name: "It works through namespaces", check: checkNamespace},
		{name: "It works with passwords and TLS", check: checkSecure,
			etcd: []etcdtest.Option{etcdtest.TLS(), etcdtest.Auth(ann(prefix))}},
		{name: "A user without rights on the claims reads the data", check: checkNoRightsRead,
			etcd: []etcdtest.Option{etcdtest.Auth(ann("data/"))}},
		{name: "A user without rights on the claims is told at once whether he may put", check: checkNoRightsAnswer,
			etcd: []etcdtest.Option{etcdtest.Auth(ann("data/"))}},
		{name: "A user without rights on the claims writes the data", check: checkNoRightsPut,
			known: "the guard of a write reads the claim",
			etcd:  []etcdtest.Option{etcdtest.Auth(ann("data/"))}},
	}
}

// handsOver checks that a key goes from one party to another.
func (e *env) handsOver(owner, writer *party, key string) {
	e.put(owner, key, "1")
	e.own(owner, key)
	e.put(writer, key, "2")
	e.agree(key, "2", owner, writer)
}

func checkNamespace(e *env) {
	inside := func() *party {
		sent := new(etcdtest.Counter)
		cl, err := e.etcd.NewClient(e.etcd.Endpoints(), sent.Option())
		e.must(err)
		cl.KV = namespace.NewKV(cl.KV, "space/")
		cl.Watcher = namespace.NewWatcher(cl.Watcher, "space/")
		cl.Lease = namespace.NewLease(cl.Lease, "space/")
		return e.on(cl, sent, contender.TTL(longTTL))
	}
	e.put(e.plain, "k", "outside")
	e.handsOver(inside(), inside(), "k")
	e.agree("space/k", "2", e.plain)
	e.agree("k", "outside", e.plain)
}

// ann is a user with rights on the data and on everything under more.
func ann(more string) etcdtest.User {
	all := clientv3.PermissionType(clientv3.PermReadWrite)
	return etcdtest.User{Name: "ann", Password: "secret", Rights: []etcdtest.Right{etcdtest.May(all, "data/"), etcdtest.May(all, more)}}
}

func asAnn() etcdtest.ClientOption { return etcdtest.As("ann", "secret") }

func checkSecure(e *env) {
	e.handsOver(e.party(asAnn()), e.party(asAnn()), "data/k")
}

func checkNoRightsRead(e *env) {
	e.put(e.plain, "data/k", "1")
	e.returns("open and read", within, func() {
		a := e.party(asAnn())
		for range 3 {
			e.agree("data/k", "1", a)
		}
	})
}

// putsAsAnn puts as a user without rights on the claims.
func (e *env) putsAsAnn() (err error) {
	e.returns("open and put", within, func() {
		a := e.party(asAnn())
		err = e.tries(within/2, func(ctx context.Context) error {
			_, err := a.Put(ctx, "data/k", "1")
			return err
		})
	})
	return err
}

func checkNoRightsPut(e *env) { e.must(e.putsAsAnn()) }

func checkNoRightsAnswer(e *env) {
	err := e.putsAsAnn()
	if err == nil {
		e.show("applied")
		return
	}
	e.show("refused")
	e.expect(strings.Contains(err.Error(), "permission denied"), "%v", err)
}
