package leasing

import (
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// source makes choices out of bytes, which a fuzzer or a random walk provides.
// When they run out every choice is 0, which must be one that ends something.
type source struct{ data []byte }

// below returns a number from 0 up to n, which is at most 256.
func (s *source) below(n int) int {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b) % n
}

func (s *source) oneIn(n int) bool { return s.below(n) == n-1 }

func oneOf[T any](s *source, vs ...T) T { return vs[s.below(len(vs))] }

// owner is who has claimed a key.
type owner uint8

const (
	nobody owner = iota
	us
	somebody // else, since the claims were listed
)

// scene is a transaction of the user's, and what it meets: keys in a store,
// some of them owned by us and some by somebody else.
type scene struct {
	*source
	layout layout
	maxOps int
	keys   []sceneKey
	op     clientv3.Op

	names  []string        // of the keys that are named most often
	put    map[string]bool // what the transaction puts
	opened bool            // it has deleted a range without an end
}

type sceneKey struct {
	name   string
	puts   int  // how often it was put, so far
	leased bool // the last time with a lease
	owner  owner
}

// The leases of a scene: the one that keys carry, those that claims hang on,
// and one that does not exist.
const (
	dataLease = 1 + iota
	ourLease
	somebodysLease
	noSuchLease
)

func newScene(data []byte) *scene {
	s := &scene{source: &source{data}, put: make(map[string]bool)}
	s.layout = newLayout(oneOf(s.source, planPrefix, planPrefix, planPrefix, "b", "\x00", "\xff", "a\xff"))
	s.maxOps = oneOf(s.source, 128, 8, 16, 64)
	prefix := s.layout.prefix
	s.names = []string{"a", "b", "c", "d", "a\x00", "b\xff", "\x00", "\xff", "\xff\xff", prefix[:len(prefix)-1], s.layout.end}
	s.names = slices.DeleteFunc(s.names, func(k string) bool { return k == "" || strings.HasPrefix(k, prefix) })
	slices.Sort(s.names)
	s.names = slices.Compact(s.names)
	crowd := s.oneIn(4)
	for _, k := range s.names {
		b := s.below(256)
		key := sceneKey{name: k, puts: b % 3, owner: oneOf(&source{[]byte{byte(b / 16)}}, nobody, us, us, somebody)}
		key.leased = key.puts > 0 && b/3%5 == 4
		if key.owner == somebody && !crowd || key.owner == us && key.leased {
			key.owner = nobody
		}
		s.keys = append(s.keys, key)
	}
	if s.oneIn(3) {
		for i := range s.below(100) {
			s.keys = append(s.keys, sceneKey{name: numbered(i), owner: us})
		}
	}
	s.op = s.txn(3)
	return s
}

// numbered are keys for transactions that name many.
func numbered(i int) string { return fmt.Sprintf("k%03d", i) }

func (s *scene) key() string {
	switch k := s.below(64); {
	case k < 52:
		return oneOf(s.source, s.names...)
	case k < 60:
		return numbered(s.below(200))
	case k < 63:
		return string([]byte{byte(s.below(256)), byte(s.below(256))}[:1+s.below(2)])
	}
	return oneOf(s.source, "", s.layout.prefix, s.layout.prefix+"a")
}

// unclaimed is key, but nothing under the claim prefix: what is there is not
// the same in two stores of which only one has claims.
func (s *scene) unclaimed() string {
	if k := s.key(); !strings.HasPrefix(k, s.layout.prefix) {
		return k
	}
	return s.names[0]
}

// span returns a range as a key and an option.
func (s *scene) span() (string, clientv3.OpOption) {
	switch s.below(8) {
	case 0:
		return s.key(), clientv3.WithPrefix()
	case 1:
		return s.key(), clientv3.WithFromKey()
	case 2:
		return "", clientv3.WithPrefix()
	}
	return s.key(), clientv3.WithRange(s.key())
}

func (s *scene) txn(depth int) clientv3.Op {
	cmps, then, els := s.cmps(), s.ops(depth), s.ops(depth)
	if s.oneIn(4) {
		cmps, els = nil, nil
	}
	return clientv3.OpTxn(cmps, then, els)
}

func (s *scene) cmps() (cmps []clientv3.Cmp) {
	n := s.below(4)
	if n == 3 && s.oneIn(4) {
		n = s.below(s.maxOps + 9)
	}
	for range n {
		cmps = append(cmps, s.cmp())
	}
	return cmps
}

func (s *scene) cmp() clientv3.Cmp {
	target := etcdserverpb.Compare_CompareTarget(s.below(5))
	union := map[etcdserverpb.Compare_CompareTarget]int{
		etcdserverpb.Compare_VERSION: 1, etcdserverpb.Compare_CREATE: 2, etcdserverpb.Compare_MOD: 3,
		etcdserverpb.Compare_LEASE: 4, etcdserverpb.Compare_VALUE: 5,
	}[target]
	if s.oneIn(32) {
		union, target = s.below(6), etcdserverpb.Compare_CompareTarget(s.below(7))
	}
	c := operands(int64(oneOf(s.source, 0, 1, 2, dataLease, s.below(40))), []byte(oneOf(s.source, "", "0", "1", "new")))[union]
	c.Target, c.Result = target, etcdserverpb.Compare_CompareResult(s.below(4))
	c.Key = []byte(s.unclaimed())
	if s.oneIn(6) {
		if end := s.key(); !s.showsClaims(string(c.Key), end) {
			c.RangeEnd = []byte(end)
		}
	}
	return clientv3.FromCompare(c)
}

// showsClaims reports whether a range covers claims.
func (s *scene) showsClaims(begin, end string) bool {
	return end != "" && keyRange{begin, end}.overlaps(keyRange{s.layout.prefix, s.layout.end})
}

func (s *scene) ops(depth int) (ops []clientv3.Op) {
	for range s.below(5) {
		switch k := s.below(32); {
		case k < 9:
			ops = append(ops, s.putOp(s.unput()))
		case k < 12:
			ops = append(ops, clientv3.OpDelete(s.key(), s.prevKV()...))
		case k < 17:
			ops = append(ops, s.deleteOp())
		case k < 23:
			ops = append(ops, s.getOp())
		case k < 30:
			if depth > 0 {
				ops = append(ops, s.txn(depth-1))
			}
		default:
			ops = append(ops, s.run()...)
		}
	}
	return ops
}

// run is the same done to many keys, up to more than etcd takes.
func (s *scene) run() (ops []clientv3.Op) {
	kind, from := s.below(4), s.below(200)
	for i := range s.below(s.maxOps + 9) {
		switch key := numbered(from + i); kind {
		case 0:
			ops = append(ops, clientv3.OpGet(key))
		case 1:
			ops = append(ops, clientv3.OpDelete(key))
		default:
			s.put[key] = true
			ops = append(ops, clientv3.OpPut(key, "new"))
		}
	}
	return ops
}

// unput is a key that the transaction does not put yet, if there is one: etcd
// refuses it twice.
func (s *scene) unput() string {
	k := s.key()
	for i := 0; i < len(s.names) && s.put[k]; i++ {
		k = s.names[(slices.Index(s.names, k)+1)%len(s.names)]
	}
	s.put[k] = true
	return k
}

func (s *scene) prevKV() []clientv3.OpOption {
	if s.oneIn(2) {
		return []clientv3.OpOption{clientv3.WithPrevKV()}
	}
	return nil
}

func (s *scene) putOp(key string) clientv3.Op {
	opts, k := s.prevKV(), s.below(64)
	if s.opened && k >= 34 {
		// A put that keeps something of a key that was deleted before in the
		// same transaction is the end of a real etcd.
		k = 0
	}
	switch {
	case k < 24:
	case k < 32:
		opts = append(opts, clientv3.WithLease(dataLease))
	case k < 34:
		opts = append(opts, clientv3.WithLease(noSuchLease))
	case k < 42:
		return clientv3.OpPut(key, "", append(opts, clientv3.WithIgnoreValue())...)
	case k < 50:
		opts = append(opts, clientv3.WithIgnoreLease())
	case k < 58:
		return clientv3.OpPut(key, "", append(opts, clientv3.WithIgnoreValue(), clientv3.WithLease(dataLease))...)
	case k < 62:
	case k < 63:
		opts = append(opts, clientv3.WithIgnoreValue()) // beside a value
	default:
		opts = append(opts, clientv3.WithIgnoreLease(), clientv3.WithLease(dataLease))
	}
	return clientv3.OpPut(key, "new", opts...)
}

func (s *scene) deleteOp() clientv3.Op {
	key, opt := s.span()
	op := clientv3.OpDelete(key, append(s.prevKV(), opt)...)
	s.opened = s.opened || string(op.RangeBytes()) == openEnd
	return op
}

func (s *scene) getOp() clientv3.Op {
	var opts []clientv3.OpOption
	if s.oneIn(2) {
		opts = s.getOptions()
	}
	key, opt := s.span()
	op := clientv3.OpGet(key, append(opts, opt)...)
	if s.oneIn(2) || s.showsClaims(string(op.KeyBytes()), string(op.RangeBytes())) || strings.HasPrefix(key, s.layout.prefix) {
		op = clientv3.OpGet(s.unclaimed(), opts...)
	}
	return op
}

func (s *scene) getOptions() (opts []clientv3.OpOption) {
	add := func(n int, opt clientv3.OpOption) {
		if s.oneIn(n) {
			opts = append(opts, opt)
		}
	}
	add(4, clientv3.WithKeysOnly())
	add(6, clientv3.WithCountOnly())
	add(6, clientv3.WithSerializable())
	add(4, clientv3.WithLimit(int64(s.below(4))))
	add(4, clientv3.WithSort(clientv3.SortTarget(s.below(5)), clientv3.SortOrder(s.below(3))))
	add(64, clientv3.WithSort(clientv3.SortTarget(9), clientv3.SortAscend)) // there is none
	rev := int64(s.below(40))
	for _, with := range []func(int64) clientv3.OpOption{
		clientv3.WithMinModRev, clientv3.WithMaxModRev, clientv3.WithMinCreateRev, clientv3.WithMaxCreateRev,
	} {
		add(8, with(rev))
	}
	add(16, clientv3.WithRev(rev))
	return opts
}
