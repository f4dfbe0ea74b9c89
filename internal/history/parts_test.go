package history

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// invent returns what clients may have seen of two keys, perhaps with one
// read that is older than it may be.
func invent(rng *rand.Rand) []Key {
	keys := []Key{{Name: "a"}, {Name: "b"}}
	now := []*mvccpb.KeyValue{nil, nil}
	var past []*mvccpb.KeyValue // what each write replaced
	stale := rng.IntN(60)
	for i := range 40 {
		at := int64(100 * (i + 1))
		call, ret := 64*(at-rng.Int64N(400))+int64(i), 64*(at+rng.Int64N(400)) // no two are called at one time
		k := rng.IntN(2)
		rev := int64(i + 2)
		switch kind := rng.IntN(4); {
		case kind == 0:
			past = append(past, now[k])
			now[k] = &mvccpb.KeyValue{Value: fmt.Append(nil, i), ModRevision: rev, CreateRevision: rev, Version: 1}
			keys[k].Events = append(keys[k].Events, &clientv3.Event{Type: mvccpb.PUT, Kv: now[k]})
			keys[k].Writes = append(keys[k].Writes, Write{Client: fmt.Sprint(i), Call: call, Ret: ret, Value: fmt.Sprint(i), Rev: rev})
		case kind == 1 && now[k] != nil:
			now[k] = nil
			keys[k].Events = append(keys[k].Events, &clientv3.Event{Type: mvccpb.DELETE, Kv: &mvccpb.KeyValue{ModRevision: rev}})
			keys[k].Writes = append(keys[k].Writes, Write{Client: fmt.Sprint(i), Call: call, Ret: ret, Delete: true, Changed: true, Rev: rev})
		default:
			r := Read{Client: fmt.Sprint(i), Call: call, Ret: ret, Header: rev, KV: now[k], AsOf: rng.IntN(2) == 0}
			if i == stale && len(past) > 0 {
				r.KV, r.AsOf = past[rng.IntN(len(past))], false
			}
			keys[k].Reads = append(keys[k].Reads, r)
			if rng.IntN(3) == 0 { // in a transaction
				r.KV = now[1-k]
				keys[1-k].Reads = append(keys[1-k].Reads, r)
			}
		}
	}
	return keys
}

// judge checks keys in parts of the given size.
func judge(keys []Key, size int) string {
	h := newHistory()
	for _, k := range keys {
		if err := h.write(k); err != nil {
			return err.Error()
		}
	}
	for i, k := range keys {
		if err := h.read(i, k.Reads); err != nil {
			return "impossible"
		}
	}
	if h.check(size) != nil {
		return "illegal"
	}
	return "legal"
}

// A history is judged the same in parts as as a whole.
func TestParts(t *testing.T) {
	verdicts := make(map[string]int)
	for seed := range uint64(1000) {
		keys := invent(rand.New(rand.NewPCG(seed, 0)))
		whole, parted := judge(keys, 1<<30), judge(keys, 1)
		if whole != parted {
			t.Errorf("seed %d: %s as a whole, %s in parts", seed, whole, parted)
		}
		verdicts[whole]++
	}
	if verdicts["legal"] < 100 || verdicts["illegal"] < 50 {
		t.Errorf("these prove nothing: %v", verdicts)
	}
}

// A long history is cut.
func TestPartsAreSmall(t *testing.T) {
	var k Key
	for i := range int64(1000) {
		ev := put(i+2, fmt.Sprint(i))
		k.Events = append(k.Events, ev)
		k.Writes = append(k.Writes, Write{Client: "writer", Call: 10*i + 1, Ret: 10*i + 8, Value: fmt.Sprint(i), Rev: i + 2})
		k.Reads = append(k.Reads, Read{Client: "reader", Call: 10*i + 2, Ret: 10*i + 7, Header: i + 2, AsOf: true, KV: ev.Kv})
	}
	h := newHistory()
	if err := errors.Join(h.write(k), h.read(0, k.Reads), h.check(100)); err != nil {
		t.Fatal(err)
	}
	ops := h.operations()
	b := h.bounds(ops)
	if n := len(h.parts(b, b.porcupine(ops), 100)); n < 15 {
		t.Errorf("2000 operations make %d parts of 100", n)
	}
}
