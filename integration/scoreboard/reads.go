package main

import (
	"context"
	"fmt"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func readRows() []*row {
	return []*row{
		{name: "Every option of a read of one key gives the plain client's answer", check: checkPointOptions},
		{name: "Every option of a range read gives the plain client's answer", check: checkRangeOptions},
		{name: "A read counts no key that was deleted", check: checkCountAfterDelete},
		{name: "A read of the whole key space shows data alone", check: checkDataAlone,
			known: "claims are keys, and range reads show them"},
		{name: "Every header is complete", check: checkHeaders},
		{name: "The revision in headers never runs backwards, nor below that of a key", check: checkMonotone},
		{name: "A caller may scribble over any reply", check: checkScribble},
		{name: "GetStream and Compact answer as the plain client's", check: checkOthers},
	}
}

// option is a combination of the options of a get.
type option struct {
	name string
	opts []clientv3.OpOption
}

// options returns the combinations, with revisions around rev.
func options(rev int64) []option {
	all := []option{
		{"no option", nil},
		{"keys only", []clientv3.OpOption{clientv3.WithKeysOnly()}},
		{"count only", []clientv3.OpOption{clientv3.WithCountOnly()}},
		{"limit 1", []clientv3.OpOption{clientv3.WithLimit(1)}},
		{"limit 2", []clientv3.OpOption{clientv3.WithLimit(2)}},
		{"serializable", []clientv3.OpOption{clientv3.WithSerializable()}},
		{"limited keys", []clientv3.OpOption{clientv3.WithLimit(1), clientv3.WithKeysOnly()}},
		{"future revision", []clientv3.OpOption{clientv3.WithRev(1 << 40)}},
		{"sort by value", []clientv3.OpOption{clientv3.WithSort(clientv3.SortByValue, clientv3.SortDescend)}},
		{"sort by revision", []clientv3.OpOption{clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend), clientv3.WithLimit(1)}},
	}
	for _, o := range []struct {
		name string
		opt  func(int64) clientv3.OpOption
	}{
		{"revision", clientv3.WithRev},
		{"min mod revision", clientv3.WithMinModRev}, {"max mod revision", clientv3.WithMaxModRev},
		{"min create revision", clientv3.WithMinCreateRev}, {"max create revision", clientv3.WithMaxCreateRev},
	} {
		for _, r := range []int64{rev - 1, rev} {
			all = append(all, option{o.name, []clientv3.OpOption{o.opt(r)}})
		}
	}
	return all
}

func checkPointOptions(e *env) {
	p, t := e.pair(), e.tally("answers")
	for _, c := range conditions() {
		key := c.String()
		p.bring(key, c)
		for _, o := range options(e.revision()) {
			p.sees(t, fmt.Sprintf("%s, %v", o.name, c), p.a, key, o.opts...)
		}
	}
	t.done()
}

func checkRangeOptions(e *env) {
	p, t := e.pair(), e.tally("answers")
	for _, c := range conditions() {
		p.bring("m/"+c.String(), c)
	}
	for _, r := range []struct {
		name, key string
		end       clientv3.OpOption
	}{
		{"prefix", "m/", clientv3.WithPrefix()},
		{"range", "m/g", clientv3.WithRange("m/p")},
		{"from key", "m/g", clientv3.WithFromKey()},
		{"empty prefix", "n/", clientv3.WithPrefix()},
	} {
		for _, o := range options(e.revision() - 2) {
			p.sees(t, r.name+", "+o.name, p.a, r.key, append([]clientv3.OpOption{r.end}, o.opts...)...)
		}
	}
	t.done()
}

func checkCountAfterDelete(e *env) {
	count := func(opts ...clientv3.OpOption) step {
		return step{"count after delete", func(ctx context.Context, kv clientv3.KV, base string) (any, error) {
			if _, err := kv.Delete(ctx, base+"k"); err != nil {
				return nil, err
			}
			return kv.Get(ctx, base+"k", opts...)
		}}
	}
	e.asPlain(count(), count(clientv3.WithCountOnly()), count(clientv3.WithKeysOnly()), count(clientv3.WithPrefix()))
}

func checkDataAlone(e *env) {
	a := e.party()
	e.put(a, "k", "1")
	e.own(a, "k")
	resp, err := a.Get(e.ctx, "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	e.must(err)
	e.show("%s for 1 of data", plural(int(resp.Count), "key"))
	e.expect(resp.Count == 1, "there are %s, not one", plural(int(resp.Count), "key"))
}

// call is one operation of a party.
type call struct {
	name string
	do   func(kv clientv3.KV) (any, error)
}

// calls returns one of each kind, on keys that are owned by a party and not.
func calls(ctx context.Context) []call {
	get, yes := clientv3.OpGet, clientv3.Compare(clientv3.Version("owned"), ">", -1)
	return []call{
		{"get of an owned key", func(kv clientv3.KV) (any, error) { return kv.Get(ctx, "owned") }},
		{"get of a foreign key", func(kv clientv3.KV) (any, error) { return kv.Get(ctx, "foreign") }},
		{"keys-only get", func(kv clientv3.KV) (any, error) { return kv.Get(ctx, "owned", clientv3.WithKeysOnly()) }},
		{"range get", func(kv clientv3.KV) (any, error) { return kv.Get(ctx, "o", clientv3.WithPrefix()) }},
		{"Do of a get", func(kv clientv3.KV) (any, error) { return kv.Do(ctx, get("owned")) }},
		{"transaction that reads", func(kv clientv3.KV) (any, error) { return kv.Txn(ctx).If(yes).Then(get("owned")).Commit() }},
		{"put", func(kv clientv3.KV) (any, error) { return kv.Put(ctx, "owned", "2") }},
		{"get after a put", func(kv clientv3.KV) (any, error) { return kv.Get(ctx, "owned") }},
		{"transaction that writes", func(kv clientv3.KV) (any, error) {
			return kv.Txn(ctx).If(yes).Then(clientv3.OpPut("owned", "3"), get("owned")).Commit()
		}},
		{"get after a transaction", func(kv clientv3.KV) (any, error) { return kv.Get(ctx, "owned") }},
		{"put of a foreign key", func(kv clientv3.KV) (any, error) { return kv.Put(ctx, "foreign", "2") }},
		{"delete of nothing", func(kv clientv3.KV) (any, error) { return kv.Delete(ctx, "nothing") }},
		{"range delete", func(kv clientv3.KV) (any, error) { return kv.Delete(ctx, "f", clientv3.WithPrefix()) }},
		{"transaction that deletes", func(kv clientv3.KV) (any, error) { return kv.Txn(ctx).Then(clientv3.OpDelete("owned")).Commit() }},
		{"get after that", func(kv clientv3.KV) (any, error) { return kv.Get(ctx, "owned") }},
	}
}

func checkHeaders(e *env) {
	p, t := e.pair(), e.tally("headers")
	p.bring("owned", condition{owned, true})
	p.bring("foreign", condition{foreign, true})
	for _, c := range calls(e.ctx) {
		r, err := c.do(p.a)
		e.must(err)
		h := header(r)
		t.check(h.GetClusterId() != 0 && h.GetMemberId() != 0 && h.GetRaftTerm() != 0 && h.GetRevision() != 0,
			"%s: the header lacks %v", c.name, missing(h))
	}
	t.done()
}

// missing names what is not in a header.
func missing(h *pb.ResponseHeader) (all []string) {
	for _, f := range []struct {
		name string
		zero bool
	}{
		{"the cluster", h.GetClusterId() == 0}, {"the member", h.GetMemberId() == 0},
		{"the term", h.GetRaftTerm() == 0}, {"the revision", h.GetRevision() == 0},
	} {
		if f.zero {
			all = append(all, f.name)
		}
	}
	return all
}

func checkMonotone(e *env) {
	p, t := e.pair(), e.tally("headers")
	p.bring("owned", condition{owned, true})
	p.bring("foreign", condition{foreign, true})
	var last int64
	for range 3 {
		for _, c := range calls(e.ctx) {
			e.put(e.plain, "elsewhere", "v") // the store moves on
			r, err := c.do(p.a)
			e.must(err)
			rev := header(r).GetRevision()
			t.check(rev >= last, "%s: the revision is lower than in the reply before", c.name)
			last = rev
			get, ok := r.(*clientv3.GetResponse)
			if !ok {
				continue
			}
			for _, kv := range get.Kvs {
				t.check(rev >= kv.ModRevision, "%s: the header is older than the key", c.name)
			}
		}
	}
	t.done()
}

func checkScribble(e *env) {
	p, t := e.pair(), e.tally("reads")
	get := clientv3.OpGet
	for i, do := range []func(key string) (any, error){
		func(key string) (any, error) { return p.a.Get(e.ctx, key) },
		func(key string) (any, error) { return p.a.Do(e.ctx, get(key)) },
		func(key string) (any, error) { return p.a.Get(e.ctx, key, clientv3.WithKeysOnly()) },
		func(key string) (any, error) { return p.a.Put(e.ctx, key, "3", clientv3.WithPrevKV()) },
		func(key string) (any, error) { return p.a.Txn(e.ctx).Then(get(key), get(key)).Commit() },
		func(key string) (any, error) {
			return p.a.Txn(e.ctx).If(clientv3.Compare(clientv3.Version(key), ">", 0)).Then(clientv3.OpPut(key, "4"), get(key)).Commit()
		},
	} {
		for _, c := range conditions() {
			key := fmt.Sprintf("%d/%v", i, c)
			p.bring(key, c)
			for range 3 {
				r, err := do(key)
				e.must(err)
				scribble(r)
				p.sees(t, fmt.Sprintf("after scribbles over the replies of a key that is %v", c), p.a, key)
			}
		}
	}
	t.done()
}

func checkOthers(e *env) {
	a := e.party()
	e.put(a, "k1", "1")
	e.put(a, "k2", "2")
	e.own(a, "k1")
	stream := func(kv clientv3.KV) (n int) {
		ch, err := kv.GetStream(e.ctx, "k", clientv3.WithPrefix())
		e.must(err)
		for r := range ch {
			e.must(r.Err())
			n += len(r.RangeResponse.GetKvs())
		}
		return n
	}
	got, want := stream(a), stream(e.plain)
	e.expect(got == want && want == 2, "the stream has %s; the plain client's has %d", plural(got, "key"), want)
	rev := e.revision()
	_, err := a.Compact(e.ctx, rev)
	e.must(err)
	for _, bad := range []int64{rev, math.MaxInt32} {
		_, err := a.Compact(e.ctx, bad)
		_, wantErr := e.plain.Compact(e.ctx, bad)
		e.expect(err != nil && wantErr != nil && complaint(err) == complaint(wantErr), "compact: %v; the plain client: %v", err, wantErr)
	}
	e.agree("k1", "1", a)
}
