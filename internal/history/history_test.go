package history

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func put(rev int64, value string) *clientv3.Event {
	return &clientv3.Event{Type: mvccpb.PUT, Kv: &mvccpb.KeyValue{Value: []byte(value), ModRevision: rev, CreateRevision: rev, Version: 1}}
}

func del(rev int64) *clientv3.Event {
	return &clientv3.Event{Type: mvccpb.DELETE, Kv: &mvccpb.KeyValue{ModRevision: rev}}
}

func read(call, ret int64, ev *clientv3.Event) Read {
	r := Read{Client: "reader", Call: call, Ret: ret, Header: 100}
	if ev != nil {
		r.KV = ev.Kv
	}
	return r
}

func TestCheck(t *testing.T) {
	a, b, d := put(2, "a"), put(3, "b"), del(4)
	wrong := put(2, "x")
	wa := Write{Client: "a", Call: 10, Ret: 20, Value: "a", Rev: 2}
	wb := Write{Client: "b", Call: 15, Ret: 30, Value: "b", Rev: 3}
	wd := Write{Client: "d", Call: 40, Ret: 50, Delete: true, Changed: true, Rev: 4}
	lost := wb
	lost.Err = errors.New("lost")
	for _, tt := range []struct {
		name   string
		events []*clientv3.Event
		writes []Write
		reads  []Read
		want   string // part of the error; none if empty
	}{
		{"nothing", nil, nil, []Read{read(1, 2, nil)}, ""},
		{"in order", []*clientv3.Event{a, b, d}, []Write{wa, wb, wd}, []Read{read(12, 14, a), read(21, 25, b), read(41, 60, nil)}, ""},
		{"either side of a write", []*clientv3.Event{a, b}, []Write{wa, wb}, []Read{read(16, 17, a), read(18, 19, b)}, ""},
		{"stale", []*clientv3.Event{a, b}, []Write{wa, wb}, []Read{read(31, 32, a)}, "must come before"},
		{"back in time", []*clientv3.Event{a, b}, []Write{wa, wb}, []Read{read(16, 17, b), read(18, 19, a)}, "cannot have been there"},
		{"before the write", []*clientv3.Event{a}, []Write{wa}, []Read{read(1, 9, a)}, "cannot have been there"},
		{"absent too late", []*clientv3.Event{a}, []Write{wa}, []Read{read(21, 22, nil)}, "must come before"},
		{"absent while there", []*clientv3.Event{a, b, d}, []Write{wa, wb, wd}, []Read{read(31, 39, nil)}, "must come before"},
		{"unknown, applied late", []*clientv3.Event{a, b}, []Write{wa, lost}, []Read{read(90, 91, a), read(92, 93, b)}, ""},
		{"unknown, not applied", []*clientv3.Event{a}, []Write{wa, lost}, []Read{read(90, 91, a)}, ""},
		{"acknowledged, not applied", []*clientv3.Event{a}, []Write{wa, wb}, nil, "no such event"},
		{"applied twice", []*clientv3.Event{a, put(5, "a")}, []Write{wa}, nil, "applied twice"},
		{"wrong value", []*clientv3.Event{a}, []Write{wa}, []Read{read(30, 31, wrong)}, "but it was"},
		{"never was", []*clientv3.Event{a}, []Write{wa}, []Read{read(30, 31, b)}, "never was"},
	} {
		err := Check(tt.events, tt.writes, tt.reads)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}
