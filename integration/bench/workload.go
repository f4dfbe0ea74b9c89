package main

import (
	"fmt"
	"math/rand/v2"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// mix is a workload of several clients, each with one goroutine. A quarter of
// the keys belongs to each of them.
type mix struct {
	reads  float64 // share of the operations; the others put
	others float64 // share of the operations that are on somebody else's keys
	random bool    // all operations are on keys of a client drawn at random
}

const (
	clients = 4
	skew    = 1.1 // of the Zipf distribution within a quarter
)

func workloadExperiments() []*experiment {
	one := func(name string, want *target, m mix) *experiment {
		return &experiment{measure: m.measure, rows: []*row{{name: name, unit: perSecond, want: want, note: m.bound()}}}
	}
	return []*experiment{
		one("4 clients, own quarter each, puts only", nil, mix{}),
		{who: []int{contender.Plain}, measure: measureGuardedPuts, rows: []*row{
			{name: "the guarded transactions of an owner's puts by 4 plain clients", unit: perSecond, note: "so much is etcd's and its client's"},
		}},
		one("4 clients, own quarter each, 95 % reads", leastOf(12, 0), mix{reads: 0.95}),
		one("4 clients, 5 % of the operations on others' keys, 95 % reads", leastOf(6, 0), mix{reads: 0.95, others: 0.05}),
		one("4 clients, own quarter each, 50 % reads", leastOf(1.2, 0), mix{reads: 0.5}),
		one("4 clients, all operations on random clients' keys, 95 % reads", leastOf(0.9, 0), mix{reads: 0.95, random: true}),
	}
}

// bound says what the work of clients that read from memory for nothing, and do all
// else as a plain client does, comes to at most.
func (m mix) bound() string {
	if m.others > 0 || m.random || m.reads == 0 {
		return ""
	}
	return fmt.Sprintf("if reads took no time: %.0f × the puts of the first row", 1/(1-m.reads))
}

// measureGuardedPuts has plain clients do what owners do to put, on keys that are claimed
// under a lease of nobody's.
func measureGuardedPuts(e *env) []float64 {
	lease, err := e.plain().Grant(e.ctx, int64(ttl.Seconds()))
	e.must(err)
	var workers []*worker
	quarters, grants := make([][]string, clients), make([][]int64, clients)
	for c := range clients {
		quarters[c], grants[c] = e.keys(byte('a'+c), e.sizes.quarter), make([]int64, e.sizes.quarter)
		e.fill(quarters[c], 16)
		e.share(crowd, e.sizes.quarter, func(i int) { grants[c][i] = e.claim(quarters[c][i], lease.ID) })
		workers = append(workers, newWorker(e, mix{}, c, &party{KV: e.client()}, quarters))
	}
	step := func(c, _ int) {
		w := workers[c]
		n := w.zipf.Uint64()
		key := quarters[c][n]
		e.guardedPut(w.p, key, grants[c][n], clientv3.OpGet(key))
	}
	e.rate(clients, e.sizes.work, step)
	return []float64{e.rate(clients, e.sizes.work, step)}
}

// shares are the percentages of foreign operations that are drawn.
var shares = []int{0, 1, 5, 10, 20, 50, 100}

// shareExperiments draw one curve: throughput by the share of operations on
// others' keys.
func shareExperiments() (all []*experiment) {
	for _, s := range shares {
		m := mix{reads: 0.95, others: float64(s) / 100}
		all = append(all, &experiment{measure: m.measure, rounds: 3, rows: []*row{{name: shareName(s), unit: perSecond}}})
	}
	return all
}

func shareName(share int) string {
	return fmt.Sprintf("%d %% of the operations on others' keys", share)
}

// measure returns the operations per second of all clients together, once they
// own what they use, and have worked for a while.
func (m mix) measure(e *env) []float64 {
	var workers []*worker
	quarters := make([][]string, clients)
	for c := range clients {
		set := byte('a' + c)
		p, keys := e.owner(set, e.sizes.quarter, 16)
		quarters[c] = keys
		workers = append(workers, newWorker(e, m, c, p, quarters))
	}
	step := func(g, _ int) { workers[g].step() }
	e.rate(clients, e.sizes.work, step)
	return []float64{e.rate(clients, e.sizes.work, step)}
}

// worker is one client at work.
type worker struct {
	e        *env
	mix      mix
	own      int
	p        *party
	quarters [][]string
	rand     *rand.Rand
	zipf     *rand.Zipf
}

func newWorker(e *env, m mix, own int, p *party, quarters [][]string) *worker {
	// The same for every contender, but not in every round.
	r := rand.New(rand.NewPCG(uint64(e.round), uint64(own)))
	return &worker{e, m, own, p, quarters, r, rand.NewZipf(r, skew, 1, uint64(e.sizes.quarter-1))}
}

func (w *worker) step() {
	key := w.quarters[w.owner()][w.zipf.Uint64()]
	if w.rand.Float64() < w.mix.reads {
		w.e.get(w.p, key)
	} else {
		w.e.put(w.p, key)
	}
}

// owner returns whose key is next.
func (w *worker) owner() int {
	if w.mix.random {
		return w.rand.IntN(clients)
	}
	if w.rand.Float64() < w.mix.others {
		return (w.own + 1 + w.rand.IntN(clients-1)) % clients
	}
	return w.own
}
