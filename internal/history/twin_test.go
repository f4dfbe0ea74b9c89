package history

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var twinSeeds = flag.Uint64("twin.seeds", 20000, "how many tiny histories TestTwin judges")

// deed is an operation of a tiny history, as the twin sees it.
type deed struct {
	call, ret, since int64
	rev              int64          // of what it wrote; 0 if nothing
	writes           map[int]string // by key: a value, or "" for a deletion
	unknown          bool           // it gave an error
	nobody           bool           // a deletion that nobody did
	reads            []glance
	at               int // how many writes came before it when it was invented
}

// glance is what a deed saw of one key: the number of the key's state, or -1 for
// none of them; or what held of it.
type glance struct {
	key    int
	kv     *mvccpb.KeyValue
	holds  func(*mvccpb.KeyValue) bool
	asOf   bool
	header int64
}

// tale is a tiny history: what happened, in the order in which it was invented,
// and what the two keys were after each write.
type tale struct {
	deeds  []*deed
	was    [][2]*mvccpb.KeyValue // after so many writes
	revs   []int64               // of the writes; revs[0] is 1, for the beginning
	events [2][]*clientv3.Event
}

// revAt is how many writes there were at a revision.
func (t *tale) revAt(rev int64) int {
	n := 0
	for i, r := range t.revs {
		if r <= rev {
			n = i
		}
	}
	return n
}

// era is the number of writes after which the key became what it was after n.
func (t *tale) era(key, n int) int {
	for n > 0 && t.was[n][key] == t.was[n-1][key] {
		n--
	}
	return n
}

// tell invents a tale whose deeds happened in order, with times around that,
// and then perhaps spoils it.
func tell(rng *rand.Rand) *tale {
	t := &tale{was: make([][2]*mvccpb.KeyValue, 1), revs: []int64{1}}
	width := 1 + rng.IntN(8)
	rev, value := int64(1), 0
	for i := range 2 + rng.IntN(6) {
		d := &deed{call: int64(100*i - rng.IntN(100*width)), ret: int64(100*i + rng.IntN(100*width)), at: len(t.was) - 1}
		d.call, d.ret = 1000+16*d.call+int64(i), 1000+16*d.ret+8+int64(i) // no two are the same
		d.call, d.ret = d.call+16000, d.ret+16000
		now := t.was[len(t.was)-1]
		next := now
		if rng.IntN(2) == 0 {
			d.writes = make(map[int]string)
			for k := range 2 {
				switch kind := rng.IntN(6); {
				case kind < 2:
					value++
					d.writes[k] = fmt.Sprint(value)
				case kind < 5 && now[k] != nil:
					d.writes[k] = ""
				}
			}
		}
		read := rng.IntN(3)
		if len(d.writes) > 0 {
			rev += 1 + int64(rng.IntN(2))
			d.rev = rev
			for k, v := range d.writes {
				if next[k] = nil; v == "" {
					t.events[k] = append(t.events[k], &clientv3.Event{Type: mvccpb.DELETE, Kv: &mvccpb.KeyValue{ModRevision: rev}})
					continue
				}
				next[k] = &mvccpb.KeyValue{Value: []byte(v), ModRevision: rev, CreateRevision: rev, Version: 1}
				if now[k] != nil {
					next[k].CreateRevision, next[k].Version = now[k].CreateRevision, now[k].Version+1
				}
				t.events[k] = append(t.events[k], &clientv3.Event{Type: mvccpb.PUT, Kv: next[k]})
			}
			t.was, t.revs = append(t.was, next), append(t.revs, rev)
			puts := slices.ContainsFunc([]string{d.writes[0], d.writes[1]}, func(v string) bool { return v != "" })
			switch rng.IntN(4) {
			case 0:
				d.unknown, read = true, 0
			case 1:
				if !puts {
					d.nobody, read = true, 0
				}
			}
		} else {
			read = 1 + rng.IntN(2)
			if rng.IntN(4) == 0 {
				d.since = max(1, d.call-int64(rng.IntN(3200)))
			}
		}
		for _, k := range rng.Perm(2)[:min(read, 2)] {
			d.reads = append(d.reads, glance{key: k, header: rev})
		}
		t.deeds = append(t.deeds, d)
	}
	// What they saw is known now, also of what came later.
	spoil := rng.IntN(1 << len(t.deeds)) // one bit for each deed
	if rng.IntN(2) == 0 {
		spoil = 0
	}
	for i, d := range t.deeds {
		old := 0 // since when all that it read may have been so
		if d.since != 0 && rng.IntN(2) == 0 {
			old = rng.IntN(2)
		}
		for j := range d.reads {
			g := &d.reads[j]
			at := max(0, d.at-old)
			if spoil>>i&1 == 1 && (j == 0 || rng.IntN(2) == 0) {
				at = rng.IntN(len(t.was))
			}
			kv := t.was[at][g.key]
			g.kv = kv
			if d.rev == 0 && rng.IntN(2) == 0 {
				g.asOf = true
				if spoil>>i&1 == 1 || d.since == 0 {
					g.header = t.revs[at] // else it may be newer than what was read
				}
				if spoil>>i&1 == 1 && rng.IntN(4) == 0 {
					g.header = 1 + rng.Int64N(rev)
				}
			}
			if kv != nil {
				g.header = max(g.header, kv.ModRevision)
			}
			if rng.IntN(3) == 0 {
				g.kv = nil
				g.holds = func(kv *mvccpb.KeyValue) bool { return kv == nil }
				if n := kv.GetVersion(); kv != nil {
					g.holds = func(kv *mvccpb.KeyValue) bool { return kv.GetVersion() >= n }
				}
			}
		}
	}
	return t
}

// keys is the tale as Check gets it.
func (t *tale) keys() []Key {
	keys := []Key{{Name: "a", Events: t.events[0]}, {Name: "b", Events: t.events[1]}}
	for i, d := range t.deeds {
		who := fmt.Sprint("client", i)
		for k, v := range d.writes {
			if d.nobody {
				continue
			}
			w := Write{Client: who, Call: d.call, Ret: d.ret, Value: v, Delete: v == "", Changed: true, Rev: d.rev}
			if d.unknown {
				w.Err, w.Ret = errors.New("lost"), 0
			}
			keys[k].Writes = append(keys[k].Writes, w)
		}
		for _, g := range d.reads {
			keys[g.key].Reads = append(keys[g.key].Reads, Read{
				Client: who, Call: d.call, Ret: d.ret, KV: g.kv, Holds: g.holds, Header: g.header, AsOf: g.asOf, Since: d.since,
			})
		}
	}
	// Everything has an end: see TestUnknownWriteAtTheEnd.
	for k := range keys {
		keys[k].Reads = append(keys[k].Reads, Read{Client: "last", Call: 1 << 40, Ret: 1<<40 + 1, KV: t.was[len(t.was)-1][k], Header: 1 << 40})
	}
	return keys
}

// A write that is called when everything else has returned, and gets no answer,
// may have been applied.
func TestUnknownWriteAtTheEnd(t *testing.T) {
	a := put(2, "a")
	lost := Write{Client: "a", Call: 10, Value: "a", Err: errors.New("lost"), Rev: 2}
	for _, tt := range []struct {
		name  string
		reads []Read
	}{
		{"alone", nil},
		{"after a read", []Read{read(1, 5, nil)}},
	} {
		if err := Check(Key{Name: "k", Events: []*clientv3.Event{a}, Writes: []Write{lost}, Reads: tt.reads}); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// sees reports whether the deed can have come after so many writes, by the
// words that document Read alone.
func (t *tale) sees(d *deed, now int) bool {
	for _, g := range d.reads {
		agrees := func(at int) bool {
			if g.holds != nil {
				return g.holds(t.was[at][g.key])
			}
			return same(g.kv, t.was[at][g.key])
		}
		asOf := g.asOf
		if then := t.revAt(g.header); asOf {
			plain := agrees(then)
			if d.since != 0 && !plain {
				asOf = false // the header is newer than what was read
			} else if !plain || t.era(g.key, then) != t.era(g.key, now) {
				return false
			}
		}
		if !asOf && !agrees(now) {
			return false
		}
	}
	return true
}

// legal tries every order.
func (t *tale) legal() bool {
	end := int64(0)
	from, to := make([]int64, len(t.deeds)), make([]int64, len(t.deeds))
	for i, d := range t.deeds {
		end = max(end, d.ret)
		from[i], to[i] = d.call, d.ret
		if d.since != 0 {
			from[i] = d.since
		}
		if d.unknown || d.nobody {
			to[i] = math.MaxInt64
		}
		if d.nobody {
			from[i] = 0
		}
	}
	done := make([]bool, len(t.deeds))
	var try func(left, writes int) bool
	try = func(left, writes int) bool {
		if left == 0 {
			return true
		}
	next:
		for i, d := range t.deeds {
			if done[i] {
				continue
			}
			for j := range t.deeds {
				if !done[j] && to[j] < from[i] {
					continue next // j returned before i was called
				}
			}
			if !t.sees(d, writes) || d.rev != 0 && t.revs[writes+1] != d.rev {
				continue
			}
			n := writes
			if d.rev != 0 {
				n++
			}
			done[i] = true
			if try(left-1, n) {
				return true
			}
			done[i] = false
		}
		return false
	}
	return try(len(t.deeds), 0)
}

// Check judges tiny histories as one that tries every order does, and so does
// it in parts.
func TestTwin(t *testing.T) {
	verdicts := make(map[string]int)
	for seed := range *twinSeeds {
		tale := tell(rand.New(rand.NewPCG(seed, 11)))
		want := tale.legal()
		whole := Check(tale.keys()...)
		parted := judge(tale.keys(), 1)
		if (whole == nil) != want || (parted == "legal") != want {
			t.Errorf("seed %d: legal is %v, but: %v; in parts: %s", seed, want, whole, parted)
			for i, d := range tale.deeds {
				t.Logf("%d: %+v", i, *d)
			}
			if t.Failed() && verdicts["wrong"] > 2 {
				return
			}
			verdicts["wrong"]++
		}
		var v *Violation
		switch {
		case want:
			verdicts["legal"]++
		case errors.As(whole, &v) && v.why == errIllegal:
			verdicts["illegal, by porcupine"]++
		case errors.As(whole, &v):
			verdicts["illegal, by its bounds"]++
		default:
			verdicts["impossible"]++
		}
	}
	t.Log(verdicts)
	if n := *twinSeeds / 100; uint64(verdicts["legal"]) < n || uint64(verdicts["illegal, by its bounds"]) < n {
		t.Errorf("these prove nothing: %v", verdicts)
	}
}
