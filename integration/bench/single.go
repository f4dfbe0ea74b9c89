package main

// The kinds of latencies that are drawn.
const (
	hitLatency      = "hit"
	claimLatency    = "claim"
	foreignLatency  = "foreign get"
	takeoverLatency = "takeover"
)

const plainPut = "put of an unclaimed key, p50"

// singleExperiments measure one operation after the other.
func singleExperiments() []*experiment {
	return []*experiment{
		{measure: measurePut, rows: []*row{
			{name: plainPut, unit: nanoseconds, want: mostOf(1.1, 0)},
		}},
		{measure: measureOwnedPut, rows: []*row{
			{name: "put of an owned key, p50", unit: nanoseconds, want: mostOf(1.1, 0)},
		}},
		{measure: measureHit, rows: []*row{
			{name: "get of an owned key, p50", unit: nanoseconds, note: "timed one by one, which counts reading the clock"},
		}},
		{measure: measureClaim, rows: []*row{
			{name: "first get of a key, which claims it, p50", unit: nanoseconds, want: mostOfRow(1.15, plainPut, "plain put")},
		}},
		{measure: measureForeignGet, rows: []*row{
			{name: "get of a foreign key, p50", unit: nanoseconds, want: mostOf(1.15, 0)},
		}},
		{measure: measureTakeover, rows: []*row{
			{name: "put of a foreign key, p50", unit: nanoseconds, want: mostOf(4, 0)},
			{name: "put of a foreign key, p99", unit: nanoseconds, want: mostOf(10, 0)},
		}},
	}
}

func p50(latencies []float64) []float64 { return []float64{percentile(latencies, 50)} }

func measurePut(e *env) []float64 {
	p := e.party()
	e.put(p, "warm")
	return p50(e.latencies(e.keys('k', e.sizes.singles), func(k string) { e.put(p, k) }))
}

func measureOwnedPut(e *env) []float64 {
	p, keys := e.owner('k', e.sizes.singles, 16)
	return p50(e.latencies(keys, func(k string) { e.put(p, k) }))
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
	all := e.latencies(keys, func(k string) { e.get(p, k) })
	e.keep(claimLatency, all)
	return p50(all)
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
	all := e.latencies(keys, func(k string) { e.put(p, k) })
	e.keep(takeoverLatency, all)
	return []float64{percentile(all, 50), percentile(all, 99)}
}
