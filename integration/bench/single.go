package main

import (
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// The kinds of latencies that are drawn.
const (
	hitLatency      = "hit"
	claimLatency    = "claim"
	foreignLatency  = "foreign get"
	takeoverLatency = "takeover"
)

// What the plain client does in turn with what is measured.
const (
	putInTurn      = "a put by the plain client, in turn with first gets, p50"
	freePutInTurn  = "a put by the plain client, in turn with those of unclaimed keys, p50"
	ownedPutInTurn = "a put by the plain client, in turn with those of owned keys, p50"
	takenPutInTurn = "a put by the plain client, in turn with those of foreign keys, p50"
	takenSlowPut   = "a put by the plain client, in turn with those of foreign keys, p99"
)

// singleExperiments measure one operation after the other.
func singleExperiments() []*experiment {
	return []*experiment{
		{measure: measurePut, rows: []*row{
			{name: "put of an unclaimed key, p50", unit: nanoseconds, want: mostOfRow(1.1, freePutInTurn, contender.Ours, "plain put in turn")},
			{name: freePutInTurn, unit: nanoseconds},
			{name: "the guarded transaction of such a put by the plain client, in turn with these, p50", unit: nanoseconds, note: "so much is etcd's and its client's"},
		}},
		{measure: measureOwnedPut, rows: []*row{
			{name: "put of an owned key, p50", unit: nanoseconds, want: mostOfRow(1.1, ownedPutInTurn, contender.Ours, "plain put in turn")},
			{name: ownedPutInTurn, unit: nanoseconds},
			{name: "the guarded transaction of an owner's put by the plain client, in turn with these, p50", unit: nanoseconds, note: "so much is etcd's and its client's"},
		}},
		{measure: measureHit, rows: []*row{
			{name: "get of an owned key, p50", unit: nanoseconds, note: "timed one by one, which counts reading the clock"},
		}},
		{measure: measureClaim, rows: []*row{
			{name: "first get of a key, which claims it, p50", unit: nanoseconds, want: mostOfRow(1.15, putInTurn, contender.Ours, "plain put in turn")},
			{name: putInTurn, unit: nanoseconds},
			{name: "the transaction of a claim by the plain client, in turn with these, p50", unit: nanoseconds, note: "so much is etcd's and its client's"},
		}},
		{measure: measureForeignGet, rows: []*row{
			{name: "get of a foreign key, p50", unit: nanoseconds, want: mostOf(1.15, 0)},
		}},
		{measure: measureTakeover, rows: []*row{
			{name: "put of a foreign key, p50", unit: nanoseconds, want: mostOfRow(4, takenPutInTurn, contender.Ours, "plain put in turn")},
			{name: takenPutInTurn, unit: nanoseconds},
			{name: "put of a foreign key, p99", unit: nanoseconds, want: mostOfRow(10, takenSlowPut, contender.Ours, "plain put in turn")},
			{name: takenSlowPut, unit: nanoseconds},
		}},
	}
}

func p50(latencies []float64) []float64 { return []float64{percentile(latencies, 50)} }

func p50s(all [][]float64) (medians []float64) {
	for _, latencies := range all {
		medians = append(medians, percentile(latencies, 50))
	}
	return medians
}

func measurePut(e *env) []float64 {
	p := e.party()
	e.put(p, "warm")
	return p50s(e.inTurn(e.keys('k', e.sizes.singles),
		func(k string) { e.put(p, k) },
		func(k string) { e.put(e.plain(), "p"+k) },
		func(k string) { e.guardedPut(e.plain(), "b"+k, 0) },
	))
}

func measureOwnedPut(e *env) []float64 {
	p, keys := e.owner('k', e.sizes.singles, 16)
	lease, err := e.plain().Grant(e.ctx, int64(ttl.Seconds()))
	e.must(err)
	grants := make(map[string]int64, len(keys))
	for _, k := range keys {
		e.put(e.plain(), "b"+k)
		grants["b"+k] = e.claim("b"+k, lease.ID)
	}
	return p50s(e.inTurn(keys,
		func(k string) { e.put(p, k) },
		func(k string) { e.put(e.plain(), "p"+k) },
		func(k string) { e.guardedPut(e.plain(), "b"+k, grants["b"+k], clientv3.OpGet("b"+k)) },
	))
}

func measureHit(e *env) []float64 {
	p, keys := e.owner('k', e.sizes.singles, 16)
	all := e.latencies(keys, func(k string) { e.get(p, k) })
	e.keep(hitLatency, all)
	return p50(all)
}

func measureClaim(e *env) []float64 {
	p, keys := e.party(), e.keys('k', e.sizes.singles)
	e.fill(keys, 16)
	e.get(p, "warm")
	lease, err := e.plain().Grant(e.ctx, int64(ttl.Seconds()))
	e.must(err)
	all := e.inTurn(keys,
		func(k string) { e.get(p, k) },
		func(k string) { e.put(e.plain(), "p"+k) },
		func(k string) { _ = e.claim("b"+k, lease.ID) },
	)
	e.keep(claimLatency, all[0])
	return p50s(all)
}

// guardedPut has a plain client put a key that is claimed under a grant, or that nobody
// claims if that is 0, as all who share the format of claims do, and read back what an
// owner has to.
func (e *env) guardedPut(plain clientv3.KV, key string, grant int64, readBack ...clientv3.Op) {
	claim := contender.Prefix + key
	resp, err := plain.Txn(e.ctx).
		If(clientv3.Compare(clientv3.CreateRevision(claim), "=", grant)).
		Then(append([]clientv3.Op{clientv3.OpPut(key, value)}, readBack...)...).
		Else(clientv3.OpGet(claim)).
		Commit()
	e.must(err)
	if !resp.Succeeded {
		e.fail("%q is claimed otherwise than under %d", key, grant)
	}
}

// claim has the plain client claim a key, as all who share the format of claims do, and
// returns the grant.
func (e *env) claim(key string, lease clientv3.LeaseID) (grant int64) {
	claim := contender.Prefix + key
	resp, err := e.plain().Txn(e.ctx).
		If(clientv3.Compare(clientv3.CreateRevision(claim), "=", 0), clientv3.Compare(clientv3.LeaseValue(key), "=", 0)).
		Then(clientv3.OpGet(key), clientv3.OpPut(claim, "", clientv3.WithLease(lease))).
		Else(clientv3.OpGet(key), clientv3.OpGet(claim)).
		Commit()
	e.must(err)
	if !resp.Succeeded {
		e.fail("%q is claimed already", key)
	}
	return resp.Header.Revision
}

// measureForeignGet reads each key five times, in turn.
func measureForeignGet(e *env) []float64 {
	_, keys := e.owner('k', max(e.sizes.singles/5, 1), 16)
	p := e.party()
	e.get(p, "warm")
	var all []float64
	for range 5 {
		all = append(all, e.latencies(keys, func(k string) { e.get(p, k) })...)
	}
	e.keep(foreignLatency, all)
	return p50(all)
}

func measureTakeover(e *env) []float64 {
	_, keys := e.owner('k', e.sizes.singles, 16)
	p := e.party()
	e.put(p, "warm")
	all := e.inTurn(keys,
		func(k string) { e.put(p, k) },
		func(k string) { e.put(e.plain(), "p"+k) },
	)
	e.keep(takeoverLatency, all[0])
	var figures []float64
	for _, percent := range []float64{50, 99} {
		for _, latencies := range all {
			figures = append(figures, percentile(latencies, percent))
		}
	}
	return figures
}
