package history

import (
	"errors"
	"fmt"
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

func asOf(r Read, header int64) Read {
	r.AsOf, r.Header = true, header
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
		{"stale", []*clientv3.Event{a, b}, []Write{wa, wb}, []Read{read(31, 32, a)}, "not linearizable"},
		{"back in time", []*clientv3.Event{a, b}, []Write{wa, wb}, []Read{read(16, 17, b), read(18, 19, a)}, "not linearizable"},
		{"before the write", []*clientv3.Event{a}, []Write{wa}, []Read{read(1, 9, a)}, "not linearizable"},
		{"absent too late", []*clientv3.Event{a}, []Write{wa}, []Read{read(21, 22, nil)}, "not linearizable"},
		{"absent while there", []*clientv3.Event{a, b, d}, []Write{wa, wb, wd}, []Read{read(31, 39, nil)}, "not linearizable"},
		{"unknown, applied late", []*clientv3.Event{a, b}, []Write{wa, lost}, []Read{read(90, 91, a), read(92, 93, b)}, ""},
		{"unknown, not applied", []*clientv3.Event{a}, []Write{wa, lost}, []Read{read(90, 91, a)}, ""},
		{"acknowledged, not applied", []*clientv3.Event{a}, []Write{wa, wb}, nil, "no such event"},
		{"applied twice", []*clientv3.Event{a, put(5, "a")}, []Write{wa}, nil, "applied twice"},
		{"wrong value", []*clientv3.Event{a}, []Write{wa}, []Read{read(30, 31, wrong)}, "but it was"},
		{"never was", []*clientv3.Event{a}, []Write{wa}, []Read{read(30, 31, b)}, "never was"},
		{"as of its header", []*clientv3.Event{a, b}, []Write{wa, wb}, []Read{asOf(read(16, 17, a), 2), asOf(read(18, 19, b), 7)}, ""},
		{"absent as of its header", []*clientv3.Event{a, b, d}, []Write{wa, wb, wd}, []Read{asOf(read(45, 60, nil), 4), asOf(read(5, 19, nil), 1)}, ""},
		{"header too new", []*clientv3.Event{a, b}, []Write{wa, wb}, []Read{asOf(read(16, 17, a), 3)}, "as of revision 3, but it was"},
		{"absent under a header too new", []*clientv3.Event{a}, []Write{wa}, []Read{asOf(read(9, 17, nil), 2)}, "as of revision 2, but it was"},
		{"out of order", []*clientv3.Event{b, a}, nil, nil, "out of order"},
	} {
		err := Check(Key{Name: "k", Events: tt.events, Writes: tt.writes, Reads: tt.reads})
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// Two keys that are each linearizable need not be so together.
func TestCheckTogether(t *testing.T) {
	a, b := put(2, "a"), put(2, "b") // in one revision
	x, y := put(3, "x"), put(4, "y")
	write := func(call, ret int64, ev *clientv3.Event) Write {
		return Write{Client: "w", Call: call, Ret: ret, Value: string(ev.Kv.Value), Rev: ev.Kv.ModRevision}
	}
	is := func(value string) Key { // a comparison of x, which is overwritten before
		holds := func(kv *mvccpb.KeyValue) bool { return string(kv.GetValue()) == value }
		return Key{Events: []*clientv3.Event{x}, Writes: []Write{write(21, 22, x)}, Reads: []Read{{Client: "w", Call: 25, Ret: 30, Holds: holds}}}
	}
	yes := Key{Events: []*clientv3.Event{y}, Writes: []Write{write(25, 30, y)}}
	since := read(25, 26, nil)
	since.Since = 15
	for _, tt := range []struct {
		name string
		x, y Key
		want string // of both together
	}{
		{"both read", Key{Reads: []Read{read(11, 19, a)}}, Key{Reads: []Read{read(11, 19, b)}}, ""},
		{"half read", Key{Reads: []Read{read(11, 19, a)}}, Key{Reads: []Read{read(11, 19, nil)}}, "not linearizable"},
		{"new, then old", Key{Reads: []Read{read(11, 12, a)}}, Key{Reads: []Read{read(13, 14, nil)}}, "not linearizable"},
		{"old, then new", Key{Reads: []Read{read(13, 14, a)}}, Key{Reads: []Read{read(11, 12, nil)}}, ""},
		{"may be old", Key{}, Key{Reads: []Read{since}}, ""},
		{"may not be so old", Key{Reads: []Read{read(13, 14, a)}}, Key{Reads: []Read{since}}, "not linearizable"},
		{"writes as compared", is("x"), yes, ""},
		{"writes in spite of the comparison", is("a"), yes, "not linearizable"},
	} {
		tt.x.Name, tt.x.Events, tt.x.Writes = "x", append([]*clientv3.Event{a}, tt.x.Events...), append([]Write{write(10, 20, a)}, tt.x.Writes...)
		tt.y.Name, tt.y.Events, tt.y.Writes = "y", append([]*clientv3.Event{b}, tt.y.Events...), append([]Write{write(10, 20, b)}, tt.y.Writes...)
		err := Check(tt.x, tt.y)
		if got := fmt.Sprint(err); tt.want == "" && err != nil || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestPicture(t *testing.T) {
	a := put(2, "a")
	err := Check(Key{"k", []*clientv3.Event{a}, []Write{{Client: "a", Call: 10, Ret: 20, Value: "a", Rev: 2}}, []Read{read(21, 22, nil)}})
	var v *Violation
	if !errors.As(err, &v) {
		t.Fatalf("got %v", err)
	}
	var page strings.Builder
	if err := v.Picture(&page); err != nil || !strings.Contains(page.String(), "k read") {
		t.Errorf("the picture shows no read: %v", err)
	}
}
