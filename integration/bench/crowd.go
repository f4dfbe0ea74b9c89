package main

import (
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// crowd is how many goroutines do something at the same time.
const crowd = 64

// crowdExperiments measure many operations at the same time, or on many keys.
func crowdExperiments(s *sizes) []*experiment {
	return []*experiment{
		{measure: measureClaims, rows: []*row{
			{name: "64 goroutines claim fresh keys", unit: perSecond, want: leastOf(1, 0), note: "the plain client gets them" + s.fewer(s.claims, s.claimsTheirs)},
		}},
		{who: []int{contender.Plain, contender.Ours}, measure: measurePrefetch, rows: []*row{
			{name: fmt.Sprintf("Prefetch of %s keys", thousands(float64(s.prefetched))), unit: nanoseconds, want: mostOf(1.5, contender.Plain), note: "the plain client puts them, by 64 goroutines"},
		}},
		{measure: measureForeignGets, rows: []*row{
			{name: "64 goroutines read foreign keys", unit: perSecond, want: leastOf(0.9, 0)},
		}},
		{measure: measureTakeovers, rows: []*row{
			{name: "64 goroutines take keys over", unit: perSecond, want: leastOf(0.3, 0), note: "the plain client puts them" + s.fewer(s.takeovers, s.takeoversTheirs)},
		}},
		{measure: measureRangeDelete, theirs: 1, rows: []*row{
			{name: fmt.Sprintf("delete a range of %s foreign keys", thousands(float64(s.deleted))), unit: nanoseconds,
				want: most(100e6, "100 ms"), note: "etcd's leasing in one round only"},
		}},
		{measure: measureHotKey, rows: []*row{
			{name: "one hot key, two clients at once, each a put and a get in turn", unit: perSecond, want: leastOf(0.9, 0)},
			{name: "the same by two plain clients, with the guarded transactions of such puts", unit: perSecond, note: "so much is etcd's and its client's"},
		}},
	}
}

// of returns how many keys a subject gets.
func (e *env) of(all, theirs int) int {
	if e.subject == contender.Theirs {
		return theirs
	}
	return all
}

func measureClaims(e *env) []float64 {
	p, keys := e.party(), e.keys('k', e.of(e.sizes.claims, e.sizes.claimsTheirs))
	e.fill(keys, 16)
	e.get(p, "warm")
	return []float64{e.rateOf(crowd, len(keys), func(i int) { e.get(p, keys[i]) })}
}

// measurePrefetch has the plain client put as many keys as the others own.
func measurePrefetch(e *env) []float64 {
	p, keys := e.party(), e.keys('p', e.sizes.prefetched)
	e.fill(keys, 16)
	e.get(p, "warm")
	begin := time.Now()
	if kv, ok := p.KV.(*leasing.KV); ok {
		n, err := kv.Prefetch(e.ctx, e.base('p'), clientv3.WithPrefix())
		e.must(err)
		if n != len(keys) {
			e.fail("%d of %d keys are owned", n, len(keys))
		}
	} else {
		e.share(crowd, len(keys), func(i int) { e.put(p, keys[i]) })
	}
	return []float64{float64(time.Since(begin))}
}

func measureForeignGets(e *env) []float64 {
	_, keys := e.owner('k', e.sizes.foreign, 16)
	p := e.party()
	e.get(p, "warm")
	return []float64{e.rate(crowd, 2*e.sizes.spell, func(g, i int) { e.get(p, keys[(g+i*crowd)%len(keys)]) })}
}

func measureTakeovers(e *env) []float64 {
	_, keys := e.owner('k', e.of(e.sizes.takeovers, e.sizes.takeoversTheirs), 16)
	p := e.party()
	e.put(p, "warm")
	return []float64{e.rateOf(crowd, len(keys), func(i int) { e.put(p, keys[i]) })}
}

func measureRangeDelete(e *env) []float64 {
	_, keys := e.owner('k', e.sizes.deleted, 16)
	p := e.party()
	e.put(p, "warm")
	begin := time.Now()
	resp, err := p.Delete(e.ctx, e.base('k'), clientv3.WithPrefix())
	e.must(err)
	took := time.Since(begin)
	if int(resp.Deleted) != len(keys) {
		e.fail("%d of %d keys were deleted", resp.Deleted, len(keys))
	}
	return []float64{float64(took)}
}

// measureHotKey has two parties use a key, and then two plain clients another, with the
// transactions that all who share the format of claims put by.
func measureHotKey(e *env) []float64 {
	hot := func(kvs [2]clientv3.KV, key string, put func(clientv3.KV, string)) float64 {
		return e.rate(len(kvs), e.sizes.work, func(g, i int) {
			if i%2 == 0 {
				put(kvs[g], key)
			} else {
				e.get(kvs[g], key)
			}
		})
	}
	keys := e.keys('k', 2)
	return []float64{
		hot([2]clientv3.KV{e.party(), e.party()}, keys[0], e.put),
		hot([2]clientv3.KV{e.client(), e.client()}, keys[1], func(kv clientv3.KV, key string) { e.guardedPut(kv, key, 0) }),
	}
}
