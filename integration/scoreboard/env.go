package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// prefix is where claims are kept.
const prefix = contender.Prefix

// longTTL lets keys be owned for longer than any cell lasts.
const longTTL = 2 * time.Minute

// env is what a check works with. Its helpers end the check if something is
// not as it must be; see [env.fail].
type env struct {
	ctx context.Context // of the cell
	contender.Contender
	etcd  *etcdtest.Cluster
	plain *clientv3.Client // an observer, who owns nothing

	figure string
}

// fail ends the check. It may be called in a goroutine of [env.together] or
// [env.begin], too.
func (e *env) fail(format string, args ...any) { panic(failure{fmt.Sprintf(format, args...)}) }

func (e *env) must(err error) {
	if err != nil {
		e.fail("%v", err)
	}
}

// expect fails unless ok.
func (e *env) expect(ok bool, format string, args ...any) {
	if !ok {
		e.fail(format, args...)
	}
}

// show sets what is shown in the cell, whether the check fails or not.
func (e *env) show(format string, args ...any) { e.figure = fmt.Sprintf(format, args...) }

// isPlain reports whether the contender is the plain client.
func (e *env) isPlain() bool { return e.Name == contender.All[contender.Plain].Name }

// party is a KV of the contender on a client of its own.
type party struct {
	clientv3.KV
	cl    *clientv3.Client
	sent  *etcdtest.Counter
	close func()
}

// party returns a new one that owns keys as long as it likes.
func (e *env) party(opts ...etcdtest.ClientOption) *party {
	return e.join(e.etcd.Endpoints(), contender.TTL(longTTL), opts...)
}

// behind returns a new party that reaches etcd through a relay.
func (e *env) behind(r *etcdtest.Relay, ttl time.Duration, opts ...etcdtest.ClientOption) *party {
	return e.join([]string{r.URL()}, contender.TTL(ttl), opts...)
}

func (e *env) join(endpoints []string, opt concurrency.SessionOption, opts ...etcdtest.ClientOption) *party {
	sent := new(etcdtest.Counter)
	cl, err := e.etcd.NewClient(endpoints, append(opts, sent.Option())...)
	e.must(err)
	return e.on(cl, sent, opt)
}

// on returns a new party on a client whose requests sent counts.
func (e *env) on(cl *clientv3.Client, sent *etcdtest.Counter, opts ...concurrency.SessionOption) *party {
	kv, closeKV, err := e.Open(cl, prefix, opts...)
	e.must(err)
	return &party{kv, cl, sent, closeKV}
}

// sending returns how many requests of p f takes.
func (p *party) sending(f func()) int {
	before := p.sent.KV()
	f()
	return p.sent.KV() - before
}

// value returns the value of key, or "" if there is no such key.
func (e *env) value(kv clientv3.KV, key string) string {
	resp, err := kv.Get(e.ctx, key)
	e.must(err)
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

func (e *env) put(kv clientv3.KV, key, value string) {
	_, err := kv.Put(e.ctx, key, value)
	e.must(err)
}

// tries does f with little patience.
func (e *env) tries(patience time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(e.ctx, patience)
	defer cancel()
	return f(ctx)
}

// own has p read key until that takes no request: then p owns it. The plain
// client just reads.
func (e *env) own(p *party, key string) {
	in := func() bool { return p.sending(func() { e.value(p, key) }) == 0 || e.isPlain() }
	e.until(fmt.Sprintf("%q is read without a request", key), in)
}

// within is how long anything may take that has to happen. It is no measure of
// speed.
const within = 12 * time.Second

// until waits until ok.
func (e *env) until(what string, ok func() bool) {
	for end := time.Now().Add(within); !ok(); e.pause(2 * time.Millisecond) {
		e.expect(time.Now().Before(end), "in vain: %s", what)
	}
}

// pause fails if the cell's time is over.
func (e *env) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-e.ctx.Done():
		e.fail("the time of the cell is over")
	}
}

// begin does f on another goroutine. What it returns waits for f, and fails if f did.
func (e *env) begin(f func()) (wait func()) {
	var failed any
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { failed = recover() }()
		f()
	})
	return func() {
		wg.Wait()
		if failed != nil {
			panic(failed)
		}
	}
}

// together does f n times at once.
func (e *env) together(n int, f func(i int)) {
	var waits []func()
	for i := range n {
		waits = append(waits, e.begin(func() { f(i) }))
	}
	for _, wait := range waits {
		wait()
	}
}

// returns fails if f does not return in time.
func (e *env) returns(what string, limit time.Duration, f func()) {
	done := make(chan any, 1)
	go func() {
		defer func() { done <- recover() }()
		f()
	}()
	select {
	case p := <-done:
		if p != nil {
			panic(p)
		}
	case <-time.After(limit):
		e.fail("not within %v: %s", limit, what)
	}
}

// revision returns etcd's.
func (e *env) revision() int64 {
	resp, err := e.plain.Get(e.ctx, "x")
	e.must(err)
	return resp.Header.Revision
}

// commits returns how many entries the log of etcd holds. Each write is one,
// and so is each transaction that may write.
func (e *env) commits() uint64 { return e.etcd.Member(0).Server.CommittedIndex() }

// commit returns how many commits f takes.
func (e *env) commit(f func()) int {
	before := e.commits()
	f()
	return int(e.commits() - before)
}

// claims returns how many claims there are.
func (e *env) claims() int64 {
	resp, err := e.plain.Get(e.ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	e.must(err)
	return resp.Count
}

// agree fails unless everybody reads value, or nothing if that is "".
func (e *env) agree(key, value string, kvs ...clientv3.KV) {
	for i, kv := range kvs {
		if got := e.value(kv, key); got != value {
			e.fail("reader %d sees %s=%q, not %q", i+1, key, got, value)
		}
	}
}

// plural says how many things there are.
func plural(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprint(n, " ", thing)
}
