package leasing

import (
	"bytes"
	"cmp"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// serverHolds states etcd's rule, step by step, of a store that holds data.
//
//  1. A comparison is about every key that exists in its range.
//  2. It has to hold for each of them.
//  3. If there is none, a comparison of values does not hold, and any other is
//     made with zero.
func serverHolds(c *etcdserverpb.Compare, data ...*mvccpb.KeyValue) bool {
	found := false
	for _, kv := range data {
		if !named(string(kv.Key), string(c.Key), string(c.RangeEnd)) {
			continue
		}
		found = true
		if !fieldHolds(c, kv) {
			return false
		}
	}
	if !found && c.Target == etcdserverpb.Compare_VALUE {
		return false
	}
	return found || fieldHolds(c, &mvccpb.KeyValue{})
}

// named states what etcd means by a key and a range_end.
func named(key, begin, end string) bool {
	switch end {
	case "":
		return key == begin
	case "\x00":
		return key >= begin
	}
	return begin <= key && key < end
}

// verdicts says which operators accept a field that is smaller than, equal to
// and greater than the operand. An operator that is not here accepts all.
var verdicts = map[etcdserverpb.Compare_CompareResult][3]bool{
	etcdserverpb.Compare_LESS:      {true, false, false},
	etcdserverpb.Compare_EQUAL:     {false, true, false},
	etcdserverpb.Compare_NOT_EQUAL: {true, false, true},
	etcdserverpb.Compare_GREATER:   {false, false, true},
}

// fieldHolds states the rule for a key that exists. An operand of another kind
// than the target's, or none, is zero or no bytes. The field and the operand
// of a target that etcd does not know are equal.
func fieldHolds(c *etcdserverpb.Compare, kv *mvccpb.KeyValue) bool {
	verdict, known := verdicts[c.Result]
	if !known {
		return true
	}
	if c.Target == etcdserverpb.Compare_VALUE {
		var operand []byte
		if u, ok := c.TargetUnion.(*etcdserverpb.Compare_Value); ok {
			operand = u.Value
		}
		return verdict[1+bytes.Compare(kv.Value, operand)]
	}
	var field, operand int64
	switch c.Target {
	case etcdserverpb.Compare_VERSION:
		field = kv.Version
		if u, ok := c.TargetUnion.(*etcdserverpb.Compare_Version); ok {
			operand = u.Version
		}
	case etcdserverpb.Compare_CREATE:
		field = kv.CreateRevision
		if u, ok := c.TargetUnion.(*etcdserverpb.Compare_CreateRevision); ok {
			operand = u.CreateRevision
		}
	case etcdserverpb.Compare_MOD:
		field = kv.ModRevision
		if u, ok := c.TargetUnion.(*etcdserverpb.Compare_ModRevision); ok {
			operand = u.ModRevision
		}
	case etcdserverpb.Compare_LEASE:
		field = kv.Lease
		if u, ok := c.TargetUnion.(*etcdserverpb.Compare_Lease); ok {
			operand = u.Lease
		}
	}
	return verdict[1+cmp.Compare(field, operand)]
}

// operands are the target unions of every kind, and none.
func operands(n int64, value []byte) []*etcdserverpb.Compare {
	return []*etcdserverpb.Compare{
		{},
		{TargetUnion: &etcdserverpb.Compare_Version{Version: n}},
		{TargetUnion: &etcdserverpb.Compare_CreateRevision{CreateRevision: n}},
		{TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: n}},
		{TargetUnion: &etcdserverpb.Compare_Lease{Lease: n}},
		{TargetUnion: &etcdserverpb.Compare_Value{Value: value}},
	}
}

// eachComparison calls f with comparisons of every kind of everything that the
// keys and ends name. 5 and 99 are no target and no operator that etcd knows.
func eachComparison(keys, ends []string, ns []int64, values []string, f func(*etcdserverpb.Compare)) {
	targets := []etcdserverpb.Compare_CompareTarget{0, 1, 2, 3, 4, 5, -1}
	results := []etcdserverpb.Compare_CompareResult{0, 1, 2, 3, 99, -1}
	for i := range max(len(ns), len(values)) {
		for _, target := range targets {
			for _, result := range results {
				for _, key := range keys {
					for _, end := range ends {
						for _, c := range operands(ns[i%len(ns)], []byte(values[i%len(values)])) {
							c.Key, c.RangeEnd, c.Target, c.Result = []byte(key), []byte(end), target, result
							f(c)
						}
					}
				}
			}
		}
	}
}

// The rule as it is stated here is that of the etcd in memory, which in turn
// is held to the real one (integration/memetcd_test.go).
func TestI11TheStatedRuleIsTheServers(t *testing.T) {
	srv := memetcd.New(memetcd.Options{})
	defer srv.Close()
	cl := srv.NewClient("c")
	lease, err := cl.Grant(t.Context(), 3600)
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []clientv3.Op{
		clientv3.OpPut("a", "m"), clientv3.OpPut("b", "", clientv3.WithLease(lease.ID)), clientv3.OpPut("a", "n"), clientv3.OpPut("c\x00", "m"),
	} {
		if _, err := cl.Do(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	all, err := cl.Get(t.Context(), "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}

	var batch []clientv3.Op
	var asked []*etcdserverpb.Compare
	ask := func() {
		resp, err := cl.Txn(t.Context()).Then(batch...).Commit()
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range asked {
			want := resp.Responses[i].GetResponseTxn().Succeeded
			if got := serverHolds(c, all.Kvs...); got != want {
				t.Fatalf("the rule says %v to %v, etcd says %v", got, c, want)
			}
		}
		batch, asked = nil, nil
	}
	ns := []int64{-1, 0, 1, 2, 3, 4, 5, 6, int64(lease.ID)}
	eachComparison([]string{"a", "b", "c"}, []string{"", "\x00", "a", "b", "c", "d"}, ns, []string{"", "m", "n", "\xff"}, func(c *etcdserverpb.Compare) {
		batch, asked = append(batch, clientv3.OpTxn([]clientv3.Cmp{clientv3.FromCompare(c)}, nil, nil)), append(asked, c)
		if len(batch) == 127 {
			ask()
		}
	})
	ask()
}

func TestI11ComparisonsAreTheServers(t *testing.T) {
	for _, kv := range []*mvccpb.KeyValue{
		nil,
		{Key: []byte("k"), CreateRevision: 5, ModRevision: 7, Version: 2, Value: []byte("m")},
		{Key: []byte("k"), CreateRevision: 5, ModRevision: 5, Version: 1},
	} {
		ns, values := []int64{-1, 0, 1, 2, 4, 5, 6, 7, 8}, []string{"", "a", "m", "m\x00", "z"}
		eachComparison([]string{"k"}, []string{"", "l", "\x00"}, ns, values, func(c *etcdserverpb.Compare) { checkDecision(t, c, kv) })
	}
}

// checkDecision compares what is decided from memory, where "k" is owned and is
// as kv says, with the server's rule. A range is not decided.
func checkDecision(t *testing.T, c *etcdserverpb.Compare, kv *mvccpb.KeyValue) {
	t.Helper()
	var data []*mvccpb.KeyValue
	if kv != nil {
		data = append(data, kv)
	}
	want := serverHolds(c, data...)
	memory := newCache(defaultMaxKeys)
	own(memory, newLease(1, time.Now(), time.Hour), "k", kv, &etcdserverpb.ResponseHeader{Revision: 1})
	r := (&localView{cache: memory}).txn([]clientv3.Cmp{clientv3.FromCompare(c)}, nil, nil)
	switch {
	case len(c.RangeEnd) > 0 && r != nil:
		t.Fatalf("%v is decided for a single key", c)
	case len(c.RangeEnd) > 0:
	case r == nil:
		t.Fatalf("%v of an owned key is not decided", c)
	case r.Succeeded != want:
		t.Fatalf("%v of %v is decided to be %v, the server says %v", c, kv, r.Succeeded, want)
	}
}

// own makes a cache own a key that is as kv says at the revision of hdr, which
// is the grant.
func own(c *cache, l *lease, key string, kv *mvccpb.KeyValue, hdr *etcdserverpb.ResponseHeader) {
	now := time.Now()
	cl, _, _ := c.join(key, now)
	c.send([]*claim{cl}, l, claimsPerLease)
	if y := c.settleClaim(cl, claimReply{outcome: applied, hdr: hdr, kv: kv}, now); len(y) > 0 {
		panic(fmt.Sprintf("the claim of %q is yielded at once", key))
	}
}

// The cases that are easily got wrong, spelled out.
func TestI11ComparisonsOfAbsentKeys(t *testing.T) {
	absent := newSnapshot(nil, 9, nil)
	for _, tc := range []struct {
		cmp  clientv3.Cmp
		want bool
	}{
		{clientv3.Compare(clientv3.Value("k"), "=", ""), false},
		{clientv3.Compare(clientv3.Value("k"), "!=", "x"), false},
		{clientv3.Compare(clientv3.Value("k"), "<", "x"), false},
		{clientv3.Compare(clientv3.Version("k"), "=", 0), true},
		{clientv3.Compare(clientv3.Version("k"), "!=", 1), true},
		{clientv3.Compare(clientv3.CreateRevision("k"), "<", 1), true},
		{clientv3.Compare(clientv3.ModRevision("k"), ">", -1), true},
		{clientv3.Compare(clientv3.ModRevision("k"), ">", 0), false},
		{clientv3.Compare(clientv3.LeaseValue("k"), "=", 0), true},
		{clientv3.Compare(clientv3.LeaseValue("k"), ">", 0), false},
	} {
		if got := holds(tc.cmp.GetCompare(), absent); got != tc.want {
			t.Errorf("%v of an absent key: %v, want %v", tc.cmp, got, tc.want)
		}
	}
}

// FuzzHolds compares decisions from memory with the stated rule: any target,
// any operator, any operand of any kind, a key that exists or does not, and
// ranges from it.
func FuzzHolds(f *testing.F) {
	f.Fuzz(func(t *testing.T, target, result int32, union uint8, n int64, operand, end []byte, present bool, create, mod, version int64, value []byte) {
		var kv *mvccpb.KeyValue
		if present {
			kv = &mvccpb.KeyValue{Key: []byte("k"), CreateRevision: create, ModRevision: mod, Version: version, Value: value}
		}
		c := operands(n, operand)[union%6]
		c.Key, c.RangeEnd = []byte("k"), end
		c.Target, c.Result = etcdserverpb.Compare_CompareTarget(target), etcdserverpb.Compare_CompareResult(result)
		checkDecision(t, c, kv)
	})
}
