package main

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func txnRows() []*row {
	return []*row{
		{name: "Comparisons of keys that exist decide as the server's", check: func(e *env) { e.compares(true) }},
		{name: "Comparisons of absent keys decide as the server's", check: func(e *env) { e.compares(false) }},
		{name: "Comparisons of ranges decide as the server's", check: checkCompareRanges},
		{name: "A transaction takes the server's branch and answers as the plain client's", check: checkBranches},
		{name: "A get in a transaction sees the writes before it", check: checkReadYourWrites},
		{name: "Range deletes in a transaction answer as the plain client's", check: checkTxnRanges},
		{name: "Nested transactions answer as the plain client's", check: checkNested},
		{name: "A transaction with a put that fails changes nothing", check: checkFailedTxn},
		{name: "127 puts in a transaction work, whoever owns the keys", check: func(e *env) { e.putMany(127, 0) }},
		{name: "60 puts beside a comparison work", check: func(e *env) { e.putMany(60, 1) }},
		{name: "127 puts beside a comparison work", check: func(e *env) { e.putMany(127, 1) }},
		{name: "128 puts, which is etcd's limit, work", check: func(e *env) { e.putMany(128, 0) }},
		{name: "128 puts beside a comparison work", check: func(e *env) { e.putMany(128, 1) },
			known: "beside a comparison the guards need one of etcd's 128 operations"},
		{name: "A put beside 128 comparisons works", check: func(e *env) { e.putMany(1, 128) },
			known: "the guards need one of etcd's 128 comparisons"},
	}
}

// comparison is one of a key or a range, with its name.
type comparison struct {
	name string
	clientv3.Cmp
}

// comparisons returns all targets, each below, at and above what a key has
// that was put twice, at revisions created and modified.
func comparisons(key string, created, modified int64) (all []comparison) {
	for _, op := range []string{"=", "!=", "<", ">"} {
		add := func(target string, c clientv3.Cmp, v any) {
			all = append(all, comparison{target + " " + op, clientv3.Compare(c, op, v)})
		}
		for _, v := range []string{"", "0", "1", "2"} {
			add("value", clientv3.Value(key), v)
		}
		for v := range 4 {
			add("version", clientv3.Version(key), v)
		}
		for d := range int64(3) {
			add("create revision", clientv3.CreateRevision(key), max(0, created+d-1))
			add("mod revision", clientv3.ModRevision(key), max(0, modified+d-1))
			add("lease", clientv3.LeaseValue(key), d-1)
		}
	}
	return all
}

// decides counts whether a transaction of a with the comparison goes as that
// of the plain client, if it only reads and if it writes.
func (p *pair) decides(t *tally, name, key string, cmp clientv3.Cmp) {
	get := clientv3.OpGet(key)
	told := func(kv clientv3.KV) string {
		return telling{revisions: true}.told(kv.Txn(p.ctx).If(cmp).Then(get).Else(get, get).Commit())
	}
	got, want := told(p.a), told(p.plain)
	t.check(got == want, "%s: %s; the plain client: %s", name, got, want)
	got = telling{}.told(p.a.Txn(p.ctx).If(cmp).Then(clientv3.OpPut("then", "v")).Else(clientv3.OpDelete("none"), clientv3.OpPut("else", "v")).Commit())
	t.check(strings.HasPrefix(got, want[:4]), "%s, with a put: %s; the plain client: %s", name, got, want)
}

func (e *env) compares(present bool) {
	p, t := e.pair(), e.tally("decisions")
	for _, owner := range []string{owned, foreign, unclaimed} {
		c := condition{owner, present}
		p.bring(owner, c)
		rev := e.revisionOf(owner)
		for _, cmp := range comparisons(owner, rev-1, rev) {
			p.decides(t, fmt.Sprintf("%s, %v", cmp.name, c), owner, cmp.Cmp)
		}
	}
	t.done()
}

// revisionOf returns that of the latest put of a key, or 1 if there is no such key.
func (e *env) revisionOf(key string) int64 {
	resp, err := e.plain.Get(e.ctx, key)
	e.must(err)
	if len(resp.Kvs) == 0 {
		return 1
	}
	return resp.Kvs[0].ModRevision
}

func checkCompareRanges(e *env) {
	p, t := e.pair(), e.tally("decisions")
	for _, c := range conditions() {
		p.bring("m/"+c.String(), c)
	}
	rev := e.revisionOf("m/owned-present")
	for _, r := range []struct{ name, key, end string }{
		{"a range", "m/", "m0"}, {"an empty range", "n/", "n0"}, {"a range with an open end", "m/o", "\x00"},
	} {
		for i, cmp := range comparisons(r.key, rev-1, rev) {
			if i%2 == 0 { // that is enough of each kind
				p.decides(t, cmp.name+", "+r.name, "m/owned-present", cmp.WithRange(r.end))
			}
		}
	}
	t.done()
}

// txn is a step that is a transaction on the keys k and l.
func txn(name string, make func(k, l string) ([]clientv3.Cmp, []clientv3.Op, []clientv3.Op)) step {
	return step{name, func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
		cmps, then, els := make(base+"k", base+"l")
		return kv.Txn(ctx).If(cmps...).Then(then...).Else(els...).Commit()
	}}
}

// Short forms for tables of transactions.
type (
	ops  = []clientv3.Op
	cmps = []clientv3.Cmp
)

func is(key, value string) cmps {
	return cmps{clientv3.Compare(clientv3.Value(key), "=", value)}
}

func checkBranches(e *env) {
	put, del, get := opPut("2"), opDelete(), func(key string) clientv3.Op { return clientv3.OpGet(key) }
	e.asPlain(
		txn("nothing", func(_, _ string) (cmps, ops, ops) { return nil, nil, nil }),
		txn("put if", func(k, l string) (cmps, ops, ops) { return is(k, "1"), ops{put(k), get(l)}, ops{put(l), get(k)} }),
		txn("put or nothing", func(k, _ string) (cmps, ops, ops) { return is(k, "1"), nil, ops{put(k)} }),
		txn("delete if", func(k, l string) (cmps, ops, ops) { return is(l, "1"), ops{del(k), put(l)}, ops{put(k), del(l)} }),
		txn("read if", func(k, l string) (cmps, ops, ops) { return is(k, "1"), ops{get(k), get(l)}, ops{get(l)} }),
		txn("two puts", func(k, l string) (cmps, ops, ops) { return nil, ops{put(k), put(l)}, nil }),
	)
}

func checkReadYourWrites(e *env) {
	put, del, get := opPut("2"), opDelete(), func(key string) clientv3.Op { return clientv3.OpGet(key) }
	e.asPlain(
		txn("put and get", func(k, l string) (cmps, ops, ops) { return nil, ops{get(k), put(k), get(k), get(l)}, nil }),
		txn("delete and get", func(k, l string) (cmps, ops, ops) { return nil, ops{get(k), del(k), get(k), put(l)}, nil }),
		txn("delete and count", func(k, l string) (cmps, ops, ops) {
			return nil, ops{del(k), clientv3.OpGet(k, clientv3.WithCountOnly()), put(l)}, nil
		}),
	)
}

func checkTxnRanges(e *env) {
	put, all := opPut("2"), opDelete(clientv3.WithPrefix())
	e.asPlain(
		txn("prefix delete", func(k, l string) (cmps, ops, ops) { return nil, ops{all(k[:len(k)-1]), clientv3.OpGet(l)}, nil }),
		txn("range delete beside a put", func(k, l string) (cmps, ops, ops) { return is(k, "1"), ops{all(k), put(l)}, ops{all(l), put(k)} }),
	)
}

func checkNested(e *env) {
	put, del, get := opPut("2"), opDelete(), func(key string) clientv3.Op { return clientv3.OpGet(key) }
	in := func(c cmps, then, els ops) clientv3.Op { return clientv3.OpTxn(c, then, els) }
	e.asPlain(
		txn("nested puts", func(k, l string) (cmps, ops, ops) {
			return is(k, "1"), ops{in(is(l, "1"), ops{put(k)}, ops{del(k), get(l)}), get(k)},
				ops{in(is(l, "1"), ops{put(l), get(k)}, ops{put(k), put(l)}), get(l)}
		}),
		txn("nested reads", func(k, l string) (cmps, ops, ops) {
			return nil, ops{in(is(k, "1"), ops{get(k)}, ops{get(l)}), get(l)}, nil
		}),
		// Both are decided before either is applied.
		txn("two nested", func(k, l string) (cmps, ops, ops) {
			return nil, ops{in(is(k, "1"), ops{put(k)}, nil), in(is(k, "2"), ops{put(l)}, ops{del(l)}), get(k)}, nil
		}),
	)
}

func checkFailedTxn(e *env) {
	e.asPlain(
		txn("put beside an ignored lease of a key that may be absent", func(k, l string) (cmps, ops, ops) {
			return nil, ops{clientv3.OpPut(k, "2"), clientv3.OpPut(l, "2", clientv3.WithIgnoreLease())}, nil
		}),
		txn("put beside an unknown lease", func(k, l string) (cmps, ops, ops) {
			return is(k, "1"), ops{clientv3.OpPut(k, "2"), clientv3.OpPut(l, "2", clientv3.WithLease(0x7777))}, ops{clientv3.OpPut(k, "3")}
		}),
	)
}

// putMany checks that n puts beside some comparisons work in one transaction,
// twice: of keys that nobody owns, and of keys that are owned, foreign and
// unclaimed in turn.
func (e *env) putMany(n, comparisons int) {
	p := e.pair()
	for _, base := range []string{"unclaimed/", "mixed/"} {
		for i := range n {
			if base == "mixed/" {
				p.bring(numbered(base, i), conditions()[i%len(conditions())])
			}
		}
		var cs cmps
		for i := range comparisons {
			cs = append(cs, clientv3.Compare(clientv3.Version(numbered(base, i)), "<", 9))
		}
		puts := many(base, n, func(key string) clientv3.Op { return clientv3.OpPut(key, "2") })
		resp, err := p.a.Txn(e.ctx).If(cs...).Then(puts...).Commit()
		e.must(err)
		e.expect(resp.Succeeded && len(resp.Responses) == n, "%s, succeeded %v", plural(len(resp.Responses), "answer"), resp.Succeeded)
		for i := range n {
			e.agree(numbered(base, i), "2", p.plain, p.a, p.b)
		}
	}
}
