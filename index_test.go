package leasing

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// The index against a plain map, through many doublings.
func TestIndexAgainstAMap(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		x, twin := newIndex(), make(map[string]*entry)
		keys := 1 + rng.IntN(400)
		for range 3000 {
			key := fmt.Sprint(rng.IntN(keys))
			switch e := x.get(key); {
			case e != twin[key]:
				t.Fatalf("seed %d: get(%s) = %p, want %p", seed, key, e, twin[key])
			case e == nil:
				if twin[key] = x.add(key); twin[key].key != key {
					t.Fatalf("seed %d: add(%s) made an entry for %s", seed, key, twin[key].key)
				}
			case rng.IntN(3) > 0:
				x.remove(e)
				delete(twin, key)
			}
			if x.n != len(twin) {
				t.Fatalf("seed %d: %d entries, want %d", seed, x.n, len(twin))
			}
		}
		seen := make(map[string]*entry)
		x.each(func(e *entry) {
			if seen[e.key] != nil {
				t.Fatalf("seed %d: %s is there twice", seed, e.key)
			}
			seen[e.key] = e
		})
		if !maps.Equal(seen, twin) {
			t.Fatalf("seed %d: each gave %d entries, want %d", seed, len(seen), len(twin))
		}
		x.each(x.remove) // each may remove what it is given
		if x.n != 0 {
			t.Fatalf("seed %d: %d entries are left", seed, x.n)
		}
	}
}

func TestIndexGrowsWithItsEntries(t *testing.T) {
	x := newIndex()
	for i := range 10 * minChains {
		x.add(fmt.Sprint(i))
		if chains := len(*x.table.Load()); x.n > chains {
			t.Fatalf("%d entries in %d chains", x.n, chains)
		}
	}
}

func TestIndexRemovingTwicePanics(t *testing.T) {
	x := newIndex()
	e := x.add("k")
	x.remove(e)
	defer func() {
		if recover() == nil {
			t.Error("removing an entry twice went unnoticed")
		}
	}()
	x.remove(e)
}

// Readers without a lock beside one writer. A reader may miss an entry; it
// never finds a wrong one, and always comes to an end.
func TestIndexReadersBesideAWriter(t *testing.T) {
	const steady, coming = 50, 2000
	x := newIndex()
	kept := make(map[string]*entry)
	for i := range steady {
		k := fmt.Sprint("kept", i)
		kept[k] = x.add(k)
	}
	var done atomic.Bool
	var readers, writer sync.WaitGroup
	for r := range 3 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 2))
			for !done.Load() {
				k := fmt.Sprint("kept", rng.IntN(steady))
				if e := x.get(k); e != nil && e != kept[k] {
					t.Errorf("get(%s) found %s", k, e.key)
					return
				}
				k = fmt.Sprint("coming", rng.IntN(coming))
				if e := x.get(k); e != nil && e.key != k {
					t.Errorf("get(%s) found %s", k, e.key)
					return
				}
				if e := x.get("never"); e != nil {
					t.Errorf("get(never) found %s", e.key)
					return
				}
			}
		})
	}
	writer.Go(func() {
		rng := rand.New(rand.NewPCG(9, 9))
		live := make(map[string]*entry)
		for range 20000 {
			k := fmt.Sprint("coming", rng.IntN(coming))
			if e := live[k]; e != nil {
				x.remove(e)
				delete(live, k)
			} else {
				live[k] = x.add(k)
			}
		}
	})
	writer.Wait()
	done.Store(true)
	readers.Wait()
	for k, e := range kept {
		if x.get(k) != e {
			t.Errorf("%s was there all the time and is not found", k)
		}
	}
}

// Where nothing is moved, nothing is missed: without growth, an entry that is
// there all the time is found all the time, whatever comes and goes beside it.
func TestIndexFindsWhatIsNotMoved(t *testing.T) {
	x := newIndex()
	kept := make([]*entry, minChains/4)
	for i := range kept {
		kept[i] = x.add(fmt.Sprint("kept", i))
	}
	var done atomic.Bool
	var readers, writer sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for !done.Load() {
				for i, e := range kept {
					if x.get(fmt.Sprint("kept", i)) != e {
						t.Errorf("kept%d is not found", i)
						return
					}
				}
			}
		})
	}
	writer.Go(func() {
		rng := rand.New(rand.NewPCG(4, 4))
		var live []*entry
		for i := range 20000 {
			if len(live) < minChains/2 && rng.IntN(2) == 0 {
				live = append(live, x.add(fmt.Sprint("coming", i)))
			} else if len(live) > 0 {
				j := rng.IntN(len(live))
				x.remove(live[j])
				live = append(live[:j], live[j+1:]...)
			}
		}
	})
	writer.Wait()
	done.Store(true)
	readers.Wait()
	if n := len(*x.table.Load()); n != minChains {
		t.Fatalf("the table has grown to %d chains: this test is about one that does not", n)
	}
}
