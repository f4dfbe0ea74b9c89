package differ

import (
	"fmt"
	"math/rand/v2"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Generator makes operations. It keeps clear of what cannot be the same on
// both sides: reads that show the claims, and puts beside deletions that are
// divided to leave the claims alone. It also spares the server what kills it: a
// put that keeps the value or lease of a key that was deleted before in the
// same transaction, which takes a deletion without an end.
type Generator struct {
	*rand.Rand
	Prefix string       // of the claims
	Data   func() int64 // how many changes of data there were
	Leases func() int   // how many leases were granted
	Calm   bool         // rather reads than writes

	value int
}

// Keys returns the keys that are used: few, so that they meet, and next to the
// claims and to the ends of what can be a key.
func (g *Generator) Keys() []string {
	return []string{
		"a", "b", "c", "b\x00", "\x00", "\xff", "\xff\xff",
		g.Prefix[:len(g.Prefix)-1], clientv3.GetPrefixRangeEnd(g.Prefix),
	}
}

func (g *Generator) key() string {
	keys := g.Keys()
	return keys[g.IntN(len(keys))]
}

func (g *Generator) oneIn(n int) bool { return g.IntN(n) == 0 }

// Op returns the next operation.
func (g *Generator) Op() Op {
	switch k := g.IntN(20); {
	case g.oneIn(60):
		return g.bad()
	case k < 8 || g.Calm && k < 13:
		return g.Get()
	case k < 12 || g.Calm && k < 15:
		return g.put()
	case k < 14 && !g.Calm:
		return g.del()
	case g.oneIn(6):
		return g.sweep()
	}
	return g.txn(2)
}

// span returns a range as a key and an option.
func (g *Generator) span() (string, []option) {
	switch g.IntN(4) {
	case 0:
		return g.key(), []option{fixed(clientv3.WithPrefix())}
	case 1:
		return g.key(), []option{fixed(clientv3.WithFromKey())}
	case 2:
		return g.key(), []option{fixed(clientv3.WithRange(g.key()))}
	}
	return "", []option{fixed(clientv3.WithPrefix())}
}

// keyOrSpan returns a range, unless only is true or by chance.
func (g *Generator) keyOrSpan(only bool) (string, []option) {
	if only || g.IntN(6) < 2 || g.Calm && g.IntN(4) > 0 {
		return g.key(), nil
	}
	return g.span()
}

// shows reports whether a get or a comparison from key to end would show
// claims.
func (g *Generator) shows(key, end []byte) bool {
	claimsEnd := clientv3.GetPrefixRangeEnd(g.Prefix)
	return len(end) > 0 && string(key) < claimsEnd && (string(end) == "\x00" || string(end) > g.Prefix)
}

// Get returns a get.
func (g *Generator) Get() Op {
	op := Op{kind: get}
	op.key, op.opts = g.keyOrSpan(false)
	if o := op.For(nil); g.shows(o.KeyBytes(), o.RangeBytes()) {
		op.key, op.opts = g.key(), nil
	}
	if len(op.opts) > 0 && g.oneIn(2) {
		op.opts = append(op.opts, fixed(clientv3.WithSort(clientv3.SortTarget(g.IntN(5)), clientv3.SortOrder(g.IntN(3)))))
	}
	for _, o := range []clientv3.OpOption{
		clientv3.WithKeysOnly(), clientv3.WithCountOnly(), clientv3.WithLimit(int64(g.IntN(3))), clientv3.WithSerializable(),
	} {
		if g.oneIn(8) {
			op.opts = append(op.opts, fixed(o))
		}
	}
	n := g.change()
	for _, with := range []func(int64) clientv3.OpOption{
		clientv3.WithMinModRev, clientv3.WithMaxModRev, clientv3.WithMinCreateRev, clientv3.WithMaxCreateRev, clientv3.WithRev,
	} {
		if g.oneIn(16) {
			op.opts = append(op.opts, func(s Side) clientv3.OpOption { return with(s.Actual(n)) })
		}
	}
	return op
}

// change is a change of data as Side.Actual takes it: rather a late one,
// sometimes one to come, sometimes none.
func (g *Generator) change() int64 {
	all := int(g.Data())
	if g.oneIn(4) {
		return int64(g.IntN(all + 2))
	}
	return int64(all + 1 - g.IntN(min(20, all+2)))
}

// Lease returns the index of one of the leases that were granted last, revoked
// since or not, or of one that does not exist.
func (g *Generator) Lease() int { return g.Leases() - g.IntN(min(5, g.Leases()+1)) }

func (g *Generator) lease() option {
	i := g.Lease()
	return func(s Side) clientv3.OpOption { return clientv3.WithLease(s.Lease(i)) }
}

func (g *Generator) put() Op {
	g.value++
	op := Op{kind: put, key: g.key(), val: fmt.Sprint("v", g.value%7)}
	if g.oneIn(3) {
		op.opts = append(op.opts, fixed(clientv3.WithPrevKV()))
	}
	switch k := g.IntN(10); {
	case k == 0 && (!g.Calm || g.oneIn(3)): // such a key is not owned for some time
		op.opts = append(op.opts, g.lease())
	case k == 1:
		op.opts, op.val = append(op.opts, fixed(clientv3.WithIgnoreValue())), ""
	case k == 2:
		op.opts = append(op.opts, fixed(clientv3.WithIgnoreLease()))
	case k == 3 && !g.Calm:
		op.opts, op.val = append(op.opts, fixed(clientv3.WithIgnoreValue()), g.lease()), ""
	}
	return op
}

func (g *Generator) del() Op {
	op := Op{kind: del}
	op.key, op.opts = g.keyOrSpan(g.oneIn(2)) // else there would be little to read
	if g.oneIn(2) {
		op.opts = append(op.opts, fixed(clientv3.WithPrevKV()))
	}
	return op
}

// boundedDel is del without ranges that have no end.
func (g *Generator) boundedDel() Op {
	for {
		op := g.del()
		if string(op.For(nil).RangeBytes()) != "\x00" {
			return op
		}
	}
}

func (g *Generator) cmp() func(Side) clientv3.Cmp {
	key, result, target := g.key(), []string{"=", "!=", "<", ">"}[g.IntN(4)], g.IntN(5)
	n, lease, none := g.change(), g.Lease(), g.oneIn(2)
	ranged := g.oneIn(4) && !g.shows([]byte(key), []byte(clientv3.GetPrefixRangeEnd(key)))
	return func(s Side) clientv3.Cmp {
		var c clientv3.Cmp
		switch target {
		case 0:
			c = clientv3.Compare(clientv3.Value(key), result, fmt.Sprint("v", n%7))
		case 1:
			c = clientv3.Compare(clientv3.Version(key), result, n%4)
		case 2:
			c = clientv3.Compare(clientv3.CreateRevision(key), result, s.Actual(n))
		case 3:
			c = clientv3.Compare(clientv3.ModRevision(key), result, s.Actual(n))
		case 4:
			c = clientv3.Compare(clientv3.LeaseValue(key), result, s.Lease(lease))
			if none {
				c = clientv3.Compare(clientv3.LeaseValue(key), result, 0)
			}
		}
		if ranged {
			c = c.WithPrefix()
		}
		return c
	}
}

func (g *Generator) cmps() (cmps []func(Side) clientv3.Cmp) {
	for range g.IntN(3) {
		cmps = append(cmps, g.cmp())
	}
	return cmps
}

func (g *Generator) txn(depth int) Op {
	return Op{kind: txn, cmps: g.cmps(), then: g.ops(depth), els: g.ops(depth)}
}

func (g *Generator) ops(depth int) (ops []Op) {
	readOnly := g.oneIn(3) || g.Calm && g.oneIn(2)
	for range g.IntN(4) {
		switch k := g.IntN(8); {
		case k < 3 || readOnly:
			ops = append(ops, g.Get())
		case k < 5:
			ops = append(ops, g.put())
		case k < 6:
			ops = append(ops, g.boundedDel())
		case depth > 0:
			ops = append(ops, g.txn(depth-1))
		}
	}
	return ops
}

// sweep returns a transaction that deletes ranges of all kinds, and puts
// nothing.
func (g *Generator) sweep() Op {
	list := func() (ops []Op) {
		for range g.IntN(3) {
			ops = append(ops, g.del(), g.Get())
		}
		return ops
	}
	return Op{kind: txn, cmps: g.cmps(), then: list(), els: []Op{{kind: txn, cmps: g.cmps(), then: list(), els: list()}}}
}

// bad returns what etcd refuses.
func (g *Generator) bad() Op {
	bad := []Op{
		{kind: get},
		{kind: put, val: "v"},
		{kind: del},
		{kind: get, key: g.key(), opts: []option{fixed(clientv3.WithSort(clientv3.SortTarget(9), clientv3.SortAscend))}},
		{kind: get, key: g.key(), opts: []option{fixed(clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortOrder(9)))}},
		{kind: put, key: g.key(), val: "v", opts: []option{fixed(clientv3.WithIgnoreValue())}},
		{kind: put, key: g.key(), val: "v", opts: []option{fixed(clientv3.WithIgnoreLease()), g.lease()}},
		{kind: put, key: g.key(), val: "v", opts: []option{fixed(clientv3.WithLease(-1))}},
	}
	i := g.IntN(len(bad) + 3)
	switch i - len(bad) {
	case 0:
		return Op{kind: txn, cmps: []func(Side) clientv3.Cmp{func(Side) clientv3.Cmp { return clientv3.Compare(clientv3.Value(""), "=", "") }}}
	case 1:
		return Op{kind: txn, then: slices.Repeat([]Op{{kind: get, key: g.key()}}, 129)}
	case 2:
		key := g.key()
		return Op{kind: txn, cmps: g.cmps(), then: []Op{{kind: put, key: key}, {kind: put, key: key}}}
	}
	if g.oneIn(2) {
		return Op{kind: txn, cmps: g.cmps(), then: []Op{g.Get()}, els: []Op{bad[i]}}
	}
	return bad[i]
}
