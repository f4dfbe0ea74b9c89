package main

import (
	"context"
	"strings"
	"time"

	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/goleak"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

func lifeRows() []*row {
	return []*row{
		{name: "Without a server, opening ends with its context", leased: true, check: checkOpenWithoutServer},
		{name: "An empty prefix is refused", leased: true, check: checkEmptyPrefix},
		{name: "Close releases every key", leased: true, check: checkCloseReleases},
		{name: "After Close no goroutine is left", leased: true, check: checkNoGoroutineLeft},
		{name: "Close ends within 5 s with the server away", leased: true, check: checkCloseAway},
		{name: "Close may be called twice", leased: true, check: checkCloseTwice},
		{name: "After Close every call fails at once and sends nothing", leased: true, check: checkClosed},
		{name: "A put that waits for an owner ends when its KV is closed", leased: true, check: checkCloseEndsWaits},
	}
}

func checkOpenWithoutServer(e *env) {
	relay := e.etcd.Relay(0)
	relay.Cut()
	cl, err := e.etcd.NewClient([]string{relay.URL()})
	e.must(err)
	ctx, cancel := context.WithTimeout(e.ctx, 300*time.Millisecond)
	defer cancel()
	e.returns("open", 5*time.Second, func() {
		_, _, err := e.Open(cl, prefix, concurrency.WithContext(ctx))
		e.expect(err != nil, "it is open")
	})
}

func checkEmptyPrefix(e *env) {
	e.returns("open", 5*time.Second, func() {
		_, _, err := e.Open(e.plain, "", contender.TTL(longTTL))
		e.expect(err != nil, "it is open, and its claims are where the data is")
	})
}

func checkCloseReleases(e *env) {
	a, b := e.party(), e.party()
	e.ownMany(a, "k", manyKeys)
	e.expect(e.claims() == manyKeys, "%d claims of %d keys", e.claims(), manyKeys)
	a.close()
	n := e.claims()
	for end := time.Now().Add(2 * time.Second); n > 0 && time.Now().Before(end); n = e.claims() {
		e.pause(50 * time.Millisecond)
	}
	e.show("%d of %d claims left", n, manyKeys)
	e.expect(n == 0, "claims are left")
	e.put(b, numbered("k", 0), "1")
}

func checkNoGoroutineLeft(e *env) {
	const goneKeys = 50
	sent := new(etcdtest.Counter)
	cl, err := e.etcd.NewClient(e.etcd.Endpoints(), sent.Option())
	e.must(err)
	e.put(cl, "k", "1") // connects
	e.put(e.plain, "k", "1")
	before := goleak.IgnoreCurrent()
	a := e.on(cl, sent, contender.TTL(longTTL))
	e.ownMany(a, "k", goneKeys)
	e.put(a, "k", "2")
	a.close()
	// What the server has for it ends a little later.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if err = goleak.Find(before); err == nil {
			return
		}
	}
	n := strings.Count(err.Error(), "Goroutine ")
	e.show("%s", plural(n, "goroutine"))
	e.fail("%s left after %d keys", plural(n, "goroutine"), goneKeys)
}

func checkCloseAway(e *env) {
	relay := e.etcd.Relay(0)
	a := e.behind(relay, longTTL)
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	relay.Cut()
	began := time.Now()
	e.returns("Close", 5*time.Second, a.close)
	e.show("%.1f s", time.Since(began).Seconds())
}

func checkCloseTwice(e *env) {
	a := e.party()
	e.value(a, "k")
	e.returns("Close, twice", within, func() {
		a.close()
		a.close()
	})
}

func checkClosed(e *env) {
	a, b := e.party(), e.party()
	e.put(e.plain, "k", "1")
	e.own(a, "k")
	a.close()
	e.value(b, "k") // it may be b's by now
	before := a.sent.KV()
	for _, c := range operations(a) {
		e.returns(c.name, 3*time.Second, func() {
			err := c.do(e.ctx)
			e.expect(err != nil, "%s succeeds", c.name)
		})
	}
	n := a.sent.KV() - before
	e.show("%s", plural(n, "request"))
	e.expect(n == 0, "%s after Close", plural(n, "request"))
}

func checkCloseEndsWaits(e *env) {
	relay := e.etcd.Relay(0)
	a, b := e.party(), e.behind(relay, longTTL)
	e.put(e.plain, "k", "1")
	e.own(b, "k")
	relay.Cut() // b gives nothing back
	claim := e.kept(prefix + "k")
	failed := make(chan error, 1)
	go func() {
		defer func() {
			if recover() != nil {
				failed <- nil
			}
		}()
		_, err := a.Put(e.ctx, "k", "2")
		failed <- err
	}()
	e.until("the owner is asked", func() bool { return e.kept(prefix+"k") != claim })
	a.close()
	select {
	case err := <-failed:
		e.expect(err != nil, "the put has succeeded, or panicked")
	case <-time.After(5 * time.Second):
		e.fail("not within 5 s of Close: the put ends")
	}
}
