package main

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func writeRows() []*row {
	return []*row{
		{name: "A put of an unclaimed key is applied once", check: func(e *env) { e.putOnce(false) }},
		{name: "A put of an owned key is applied once", check: func(e *env) { e.putOnce(true) }},
		{name: "A put answers as the plain client's, previous value included", check: checkPuts},
		{name: "A delete tells how many keys it deleted, and which", check: checkDeletes},
		{name: "A range delete tells how many keys it deleted, and which", check: checkRangeDeletes},
		{name: "A prefix delete reaches keys that others own", check: func(e *env) {
			e.deleteReaches("m", "m/k", clientv3.WithPrefix())
		}},
		{name: `A delete of the prefix "\xff" reaches keys that others own`, check: func(e *env) {
			e.deleteReaches("\xff", "\xff/k", clientv3.WithPrefix())
		}},
		{name: "A delete with an open end reaches keys that others own", check: func(e *env) {
			e.deleteReaches("m", "m/k", clientv3.WithFromKey())
		}},
		{name: "A delete of everything reaches keys that others own", check: func(e *env) {
			e.deleteReaches("", "m/k", clientv3.WithPrefix())
		}},
		{name: "A range delete that covers the claims takes no key from its owner", check: checkClaimsSurvive},
		{name: "WithLease puts a key under a lease, and all read that", check: checkWithLease},
		{name: "A key that its own lease took along is gone for every reader", check: checkLeaseGone},
		{name: "WithIgnoreValue keeps the value, and all read that", check: checkIgnoreValue},
		{name: "WithIgnoreLease keeps the lease, and all read that", check: checkIgnoreLease},
		{name: "Keys and values may be any bytes", check: checkBinary},
		{name: "Bad input gives the server's own error and changes nothing", check: checkBadInput},
		{name: "A value that just fits into a request of 1.5 MiB can be put", check: checkJustFits,
			known: "the guards of a write take some bytes of the request"},
		{name: "Keys under the claim prefix can be written as others can", check: checkUnderPrefix,
			known: "there are claims and no data; single writes give ErrClaimPrefix"},
	}
}

// putOnce checks what a put does to a key that exists.
func (e *env) putOnce(own bool) {
	a := e.party()
	e.put(e.plain, "k", "1")
	if own {
		e.own(a, "k")
	}
	before := e.revision()
	e.put(a, "k", "2")
	moved := e.revision() - before
	resp, err := e.plain.Get(e.ctx, "k")
	e.must(err)
	versions := resp.Kvs[0].Version - 1
	e.show("%s, %s", plural(int(versions), "version"), plural(int(moved), "revision"))
	e.expect(versions == 1 && moved == 1, "the key has moved by %s, the store by %s",
		plural(int(versions), "version"), plural(int(moved), "revision"))
	e.agree("k", "2", a)
}

// op is a step that is a single operation on base+key.
func op(name, key string, make func(key string) clientv3.Op) step {
	return step{name, func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
		return kv.Do(ctx, make(base+key))
	}}
}

// opPut and opDelete are operations that tell what was there before.
func opPut(value string, opts ...clientv3.OpOption) func(string) clientv3.Op {
	return func(key string) clientv3.Op {
		return clientv3.OpPut(key, value, append(opts, clientv3.WithPrevKV())...)
	}
}

func opDelete(opts ...clientv3.OpOption) func(string) clientv3.Op {
	return func(key string) clientv3.Op {
		return clientv3.OpDelete(key, append(opts, clientv3.WithPrevKV())...)
	}
}

func checkPuts(e *env) {
	e.asPlain(
		step{"put", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			return kv.Put(ctx, base+"k", "2")
		}},
		step{"put with PrevKV", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			return kv.Put(ctx, base+"k", "2", clientv3.WithPrevKV())
		}},
		op("Do of a put with PrevKV", "k", opPut("2")),
		op("put of nothing with PrevKV", "k", opPut("")),
	)
}

func checkDeletes(e *env) {
	e.asPlain(
		step{"delete", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			return kv.Delete(ctx, base+"k")
		}},
		step{"delete with PrevKV", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			return kv.Delete(ctx, base+"k", clientv3.WithPrevKV())
		}},
		op("Do of a delete with PrevKV", "k", opDelete()),
	)
}

func checkRangeDeletes(e *env) {
	e.asPlain(
		step{"prefix delete", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			return kv.Delete(ctx, base, clientv3.WithPrefix())
		}},
		op("prefix delete with PrevKV", "", opDelete(clientv3.WithPrefix())),
		step{"range delete with PrevKV", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			return kv.Delete(ctx, base+"k", clientv3.WithRange(base+"l"), clientv3.WithPrevKV())
		}},
		step{"delete of an empty range", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			return kv.Delete(ctx, base+"l", clientv3.WithRange(base+"k"), clientv3.WithPrevKV())
		}},
	)
}

// deleteReaches checks that a deletion of the range reaches key, which another
// party owns.
func (e *env) deleteReaches(from, key string, opts ...clientv3.OpOption) {
	a, b := e.party(), e.party()
	e.put(e.plain, key, "1")
	e.own(b, key)
	resp, err := a.Delete(e.ctx, from, opts...)
	e.must(err)
	for _, reader := range []struct {
		is string
		kv clientv3.KV
	}{{"etcd", e.plain}, {"its owner", b}, {"the one who deleted it", a}} {
		e.expect(e.value(reader.kv, key) == "", "for %s the key is still there", reader.is)
	}
	e.expect(resp.Deleted == 1, "%s deleted, not one", plural(int(resp.Deleted), "key"))
}

func checkClaimsSurvive(e *env) {
	a, b := e.party(), e.party()
	e.put(e.plain, "z", "1")
	e.own(b, "z")
	_, err := a.Delete(e.ctx, "l", clientv3.WithRange("m"))
	e.must(err)
	n := b.sending(func() { e.agree("z", "1", b) })
	e.show("%s for the owner's read", plural(n, "request"))
	e.expect(n == 0 || e.isPlain(), "the owner has lost its key")
	e.put(a, "z", "2")
	e.agree("z", "2", b)
}

func checkWithLease(e *env) {
	one, two := e.lease(), e.lease()
	e.asPlain(
		op("put", "k", opPut("2", clientv3.WithLease(one))),
		step{"put under another lease", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			if _, err := kv.Put(ctx, base+"k", "2", clientv3.WithLease(one)); err != nil {
				return nil, err
			}
			return kv.Put(ctx, base+"k", "3", clientv3.WithLease(two), clientv3.WithPrevKV())
		}},
		step{"put without a lease, later", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			if _, err := kv.Put(ctx, base+"k", "2", clientv3.WithLease(one)); err != nil {
				return nil, err
			}
			return kv.Put(ctx, base+"k", "3", clientv3.WithPrevKV())
		}},
		step{"put in a transaction", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			return kv.Txn(ctx).Then(clientv3.OpPut(base+"k", "2", clientv3.WithLease(one)), clientv3.OpGet(base+"k")).Commit()
		}},
	)
}

// lease grants a lease that outlasts the cell.
func (e *env) lease() clientv3.LeaseID {
	resp, err := e.plain.Grant(e.ctx, 600)
	e.must(err)
	return resp.ID
}

func checkLeaseGone(e *env) {
	p, t := e.pair(), e.tally("reads")
	lease := e.lease()
	var keys []string
	for _, c := range conditions() {
		key := c.String()
		p.bring(key, c)
		_, err := p.a.Put(e.ctx, key, "2", clientv3.WithLease(lease))
		e.must(err)
		for _, who := range []*party{p.a, p.b} { // some may remember it
			e.agree(key, "2", who, who)
		}
		keys = append(keys, key)
	}
	_, err := e.plain.Revoke(e.ctx, lease)
	e.must(err)
	for _, key := range keys {
		for _, who := range []*party{p.a, p.b} {
			got := e.value(who, key)
			t.check(got == "", "a key that is gone is read as %q", got)
		}
	}
	t.done()
}

func checkIgnoreValue(e *env) {
	lease := e.lease()
	e.asPlain(
		op("put", "k", opPut("", clientv3.WithIgnoreValue())),
		op("put under a lease", "k", opPut("", clientv3.WithIgnoreValue(), clientv3.WithLease(lease))),
		step{"put in a transaction", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			return kv.Txn(ctx).Then(clientv3.OpPut(base+"k", "", clientv3.WithIgnoreValue()), clientv3.OpGet(base+"k")).Commit()
		}},
	)
}

func checkIgnoreLease(e *env) {
	lease := e.lease()
	e.asPlain(
		op("put", "k", opPut("2", clientv3.WithIgnoreLease())),
		step{"put of a key with a lease", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			if _, err := kv.Put(ctx, base+"k", "2", clientv3.WithLease(lease)); err != nil {
				return nil, err
			}
			return kv.Put(ctx, base+"k", "3", clientv3.WithIgnoreLease(), clientv3.WithPrevKV())
		}},
	)
}

func checkBinary(e *env) {
	p, t := e.pair(), e.tally("keys")
	keys := []string{"\x00", "\x00\xff", "\xff", "\xff\xff", "a\x00", "a\xff", "\xc3\x28", "leasing.\xff"}
	for i, key := range keys {
		p.bring(key, conditions()[i%len(conditions())])
		value := "\x00\xff\xc3\x28" + key
		e.put(p.a, key, value)
		for _, who := range []*party{p.a, p.b} {
			got := e.value(who, key)
			t.check(got == value, "%q is read as %q, not %q", key, got, value)
		}
		resp, err := p.a.Delete(e.ctx, key, clientv3.WithRange(key+"\x00"))
		t.check(err == nil && resp.Deleted == 1, "delete of %q: %s", key, telling{}.told(resp, err))
		got := e.value(p.b, key)
		t.check(got == "", "%q is read as %q after its deletion", key, got)
	}
	t.done()
}

func checkBadInput(e *env) {
	large := strings.Repeat("x", 1700<<10) // larger than etcd takes, but not than clients send
	const noLease = 0x7777
	in := func(ops ...clientv3.Op) func(string) clientv3.Op {
		return func(key string) clientv3.Op {
			return clientv3.OpTxn(nil, append([]clientv3.Op{clientv3.OpPut(key, "2")}, ops...), nil)
		}
	}
	e.asPlain(
		op("put of no key", "k", func(string) clientv3.Op { return clientv3.OpPut("", "2") }),
		op("get of no key", "k", func(string) clientv3.Op { return clientv3.OpGet("") }),
		op("delete of no key", "k", func(string) clientv3.Op { return clientv3.OpDelete("") }),
		op("put of no key beside others", "k", in(clientv3.OpPut("", "2"))),
		op("large value", "k", func(key string) clientv3.Op { return clientv3.OpPut(key, large) }),
		op("too many operations", "k", in(many("g", 128, func(key string) clientv3.Op { return clientv3.OpGet(key) })...)),
		op("two puts of one key", "k", func(key string) clientv3.Op {
			return clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(key, "2"), clientv3.OpPut(key, "3")}, nil)
		}),
		op("unknown lease", "k", func(key string) clientv3.Op { return clientv3.OpPut(key, "2", clientv3.WithLease(noLease)) }),
		op("value that shall be ignored", "k", func(key string) clientv3.Op { return clientv3.OpPut(key, "2", clientv3.WithIgnoreValue()) }),
		op("future revision", "k", func(key string) clientv3.Op { return clientv3.OpGet(key, clientv3.WithRev(1<<40)) }),
		op("future revision beside a put", "k", in(clientv3.OpGet("x", clientv3.WithRev(1<<40)))),
	)
}

// many returns n operations, each on a key of its own.
func many(base string, n int, op func(key string) clientv3.Op) (ops []clientv3.Op) {
	for i := range n {
		ops = append(ops, op(numbered(base, i)))
	}
	return ops
}

func numbered(base string, i int) string { return fmt.Sprintf("%s%03d", base, i) }

func checkJustFits(e *env) {
	a := e.party()
	const limit = 3 << 19
	var fits int
	for n := limit; fits == 0; n -= 16 {
		if _, err := e.plain.Put(e.ctx, "other", strings.Repeat("x", n)); err == nil {
			fits = n
		}
	}
	e.show("%d bytes below the limit", limit-fits)
	e.put(a, "k", strings.Repeat("x", fits))
}

func checkUnderPrefix(e *env) {
	a, b := e.party(), e.party()
	const key = prefix + "k"
	e.put(a, key, "1")
	e.agree(key, "1", a, b, e.plain)
	e.put(b, key, "2")
	e.agree(key, "2", a, b, e.plain)
	_, err := a.Delete(e.ctx, key)
	e.must(err)
	e.agree(key, "", a, b, e.plain)
}
