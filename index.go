package leasing

import (
	"hash/maphash"
	"sync/atomic"
)

// index finds entries by key. Its readers take no lock: they walk chains of
// atomic pointers. Its writers are serialised by cache.mu.
//
// A reader that races with a writer may miss an entry that is there. It never
// finds one that is wrong: what an entry says is in its own fields, which are
// cleared before it is removed.
type index struct {
	seed  maphash.Seed
	table atomic.Pointer[[]atomic.Pointer[entry]] // a power of two of chains
	n     int                                     // guarded by cache.mu
}

const minChains = 64

func newIndex() *index {
	x := &index{seed: maphash.MakeSeed()}
	t := make([]atomic.Pointer[entry], minChains)
	x.table.Store(&t)
	return x
}

func (x *index) get(key string) *entry {
	return find(x, uint32(maphash.String(x.seed, key)), key)
}

func (x *index) getBytes(key []byte) *entry {
	return find(x, uint32(maphash.Bytes(x.seed, key)), key)
}

func find[K string | []byte](x *index, h uint32, key K) *entry {
	t := *x.table.Load()
	for e := t[h&uint32(len(t)-1)].Load(); e != nil; e = e.next.Load() {
		if e.hash == h && e.key == string(key) {
			return e
		}
	}
	return nil
}

// add makes an entry for key, which must have none.
func (x *index) add(key string) *entry {
	t := *x.table.Load()
	if x.n >= len(t) {
		t = x.grow(t)
	}
	e := newEntry(key, uint32(maphash.String(x.seed, key)))
	head := &t[e.hash&uint32(len(t)-1)]
	e.next.Store(head.Load())
	head.Store(e)
	x.n++
	return e
}

// remove takes e out. Readers that stand on it find their way on.
func (x *index) remove(e *entry) {
	t := *x.table.Load()
	p := &t[e.hash&uint32(len(t)-1)]
	for f := p.Load(); f != e; f = p.Load() {
		if f == nil {
			panic("leasing: removing an entry that is not in the index")
		}
		p = &f.next
	}
	p.Store(e.next.Load())
	x.n--
}

// grow doubles the chains, moving the entries themselves. A reader on a chain
// of the old table may be led over to one of the new: chains are acyclic at
// every moment, so it comes to an end, perhaps without its entry.
func (x *index) grow(old []atomic.Pointer[entry]) []atomic.Pointer[entry] {
	t := make([]atomic.Pointer[entry], 2*len(old))
	for i := range old {
		for e := old[i].Load(); e != nil; {
			next := e.next.Load()
			head := &t[e.hash&uint32(len(t)-1)]
			e.next.Store(head.Load())
			head.Store(e)
			e = next
		}
	}
	x.table.Store(&t)
	return t
}

// each calls f on every entry; f may remove the entry it is given.
func (x *index) each(f func(*entry)) {
	t := *x.table.Load()
	for i := range t {
		for e := t[i].Load(); e != nil; {
			next := e.next.Load()
			f(e)
			e = next
		}
	}
}
