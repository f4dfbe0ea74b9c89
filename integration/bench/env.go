package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// ttl lets keys be owned for longer than any cell lasts.
const ttl = 10 * time.Minute

// env is what a measurement works with: one subject, in one round. Its helpers
// end the measurement if something fails; see [env.fail].
type env struct {
	ctx      context.Context
	sizes    *sizes
	subject  int
	round    int
	endpoint string    // of the subject's etcd; empty for the floor
	server   *server   // that etcd; nil for the floor
	profiles string    // the folder for profiles; empty for none
	row      string    // the name of the first row that is measured
	progress io.Writer // for measurements that take long
	keep     func(kind string, latencies []float64)

	profiled int              // how many profiles there are
	loader   *clientv3.Client // a plain client, made when it is first needed
	closers  []func()
}

// attempt runs a measurement and closes what it has opened.
func (e *env) attempt(measure func(*env) []float64) (figures []float64, err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case failure:
			err = p.error
		default:
			panic(p)
		}
		for i := len(e.closers) - 1; i >= 0; i-- {
			e.closers[i]()
		}
	}()
	return measure(e), nil
}

// failure is what a measurement panics with to end.
type failure struct{ error }

func (e *env) fail(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }

func (e *env) must(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// leased reports whether the subject owns keys.
func (e *env) leased() bool { return e.subject == contender.Theirs || e.subject == contender.Ours }

// client returns a new plain client of the subject's etcd.
func (e *env) client() *clientv3.Client {
	cl, err := clientv3.New(etcdtest.ClientConfig([]string{e.endpoint}))
	e.must(err)
	e.closers = append(e.closers, func() { _ = cl.Close() })
	return cl
}

// plain returns a client that prepares keys and looks at them. It is not the
// one that is measured.
func (e *env) plain() *clientv3.Client {
	if e.loader == nil {
		e.loader = e.client()
	}
	return e.loader
}

// party is a KV of the subject on a client of its own.
type party struct {
	clientv3.KV
	close func()
}

// party returns a new one.
func (e *env) party() *party {
	kv, closeKV, err := contender.All[e.subject].Open(e.client(), contender.Prefix, contender.TTL(ttl))
	e.must(err)
	return e.enter(kv, closeKV)
}

// hoarder returns a KV of this library that may own n keys.
func (e *env) hoarder(n int) *party {
	kv, err := leasing.New(e.ctx, e.client(), leasing.Config{Prefix: contender.Prefix, TTL: ttl, MaxKeys: n})
	e.must(err)
	return e.enter(kv, func() { _ = kv.Close() })
}

func (e *env) enter(kv clientv3.KV, closeKV func()) *party {
	p := &party{kv, sync.OnceFunc(closeKV)}
	// etcd's leasing may take minutes to close; it ends when its client does.
	e.closers = append(e.closers, func() { within(closeLimit, p.close) })
	return p
}

// closeLimit is how long anybody waits for a KV to close.
const closeLimit = 30 * time.Second

// within reports whether f returned in time.
func within(limit time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// keys returns n keys of 16 bytes, the same for all subjects, but others in
// each round. They have a prefix that depends on the set and the round.
func (e *env) keys(set byte, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s%012d", e.base(set), i)
	}
	return all
}

func (e *env) base(set byte) string { return fmt.Sprintf("%c%02d/", set, e.round) }

// fill has the keys hold values of that size.
func (e *env) fill(keys []string, size int) {
	value, batches := strings.Repeat("v", size), chunks(keys, 100)
	e.plain()
	e.share(4, len(batches), func(i int) {
		var ops []clientv3.Op
		for _, k := range batches[i] {
			ops = append(ops, clientv3.OpPut(k, value))
		}
		_, err := e.plain().Txn(e.ctx).Then(ops...).Commit()
		e.must(err)
	})
}

// own has p read the keys of a set until it owns all of them, so many at a time.
// The plain client cannot own them, and reads nothing.
func (e *env) own(p *party, set byte, keys []string, width int) {
	if !e.leased() {
		return
	}
	for range 5 {
		e.share(width, len(keys), func(i int) {
			// A key that is held on to must not be the caller's.
			e.get(p, strings.Clone(keys[i]))
			if i > 0 && i%100_000 == 0 {
				fmt.Fprintf(e.progress, "  … %s keys are owned\n", thousands(float64(i)))
			}
		})
		resp, err := e.plain().Get(e.ctx, contender.Prefix+e.base(set), clientv3.WithPrefix(), clientv3.WithCountOnly())
		e.must(err)
		if resp.Count == int64(len(keys)) {
			return
		}
		time.Sleep(300 * time.Millisecond)
	}
	e.fail("the keys are read again and again, but not owned")
}

// owner returns a party that owns n keys of a set, with values of that size.
func (e *env) owner(set byte, n, size int) (*party, []string) {
	keys, p := e.keys(set, n), e.party()
	e.fill(keys, size)
	e.own(p, set, keys, crowd)
	return p, keys
}

func (e *env) get(kv clientv3.KV, key string) {
	_, err := kv.Get(e.ctx, key)
	e.must(err)
}

// value is what puts write in measurements.
const value = "sixteen bytes .."

func (e *env) put(kv clientv3.KV, key string) {
	_, err := kv.Put(e.ctx, key, value)
	e.must(err)
}

// together does f width times at once. If one fails, so does this.
func (e *env) together(width int, f func(g int)) {
	var wg sync.WaitGroup
	errs := make([]error, width)
	for g := range width {
		wg.Go(func() {
			defer func() {
				switch p := recover().(type) {
				case nil:
				case failure:
					errs[g] = p.error
				default:
					panic(p)
				}
			}()
			f(g)
		})
	}
	wg.Wait()
	e.must(errors.Join(errs...))
}

// share does f for 0 to n-1, so many at a time.
func (e *env) share(width, n int, f func(i int)) {
	e.together(min(width, n), func(g int) {
		for i := g; i < n; i += width {
			f(i)
		}
	})
}

// chunks cuts a list into parts of n and a rest.
func chunks(keys []string, n int) (all [][]string) {
	for ; len(keys) > n; keys = keys[n:] {
		all = append(all, keys[:n])
	}
	return append(all, keys)
}
