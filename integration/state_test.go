package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/integration/internal/reply"
)

// state is what a key can be to a KV.
type state struct {
	owner   string // owned by the KV, foreign as the other KV owns it, or unclaimed
	present bool
}

const (
	isOwned     = "owned"
	isForeign   = "foreign"
	isUnclaimed = "unclaimed"
)

func states() (all []state) {
	for _, owner := range []string{isOwned, isForeign, isUnclaimed} {
		all = append(all, state{owner, true}, state{owner, false})
	}
	return all
}

func (s state) String() string {
	if s.present {
		return s.owner + "-present"
	}
	return s.owner + "-absent"
}

// bring brings a key that nobody has used into a state. If it is to be present
// it is at its second version, and its value is "1".
func (w *world) bring(key string, st state) {
	w.Helper()
	if st.present {
		w.write(key, "0")
		w.write(key, "1")
	}
	switch st.owner {
	case isOwned:
		w.claim(w.kv, w.sent, key)
	case isForeign:
		w.claim(w.other, w.otherSent, key)
	}
}

// write puts a key on either side, not through the KV.
func (w *world) write(key, value string) {
	w.Helper()
	plain, err := w.plain.writer.Put(w.ctx, key, value)
	w.must(err)
	leased, err := w.leased.writer.Put(w.ctx, key, value)
	w.must(err)
	w.note(reply.Message(plain), reply.Message(leased))
}

// claim makes a KV own a key that does not rest, which its first read does:
// the second sends nothing.
func (w *world) claim(kv clientv3.KV, sent *etcdtest.Counter, key string) {
	w.Helper()
	_, err := kv.Get(w.ctx, key)
	w.must(err)
	if n := sending(sent, func() { _, err = kv.Get(w.ctx, key) }); n != 0 || err != nil {
		w.Fatalf("a read of %q has sent %d requests (%v), so it was not owned", key, n, err)
	}
}

// sending returns how many requests f sends.
func sending(sent *etcdtest.Counter, f func()) int {
	before := sent.KV()
	f()
	return sent.KV() - before
}

// each does something to a key in each state.
func (w *world) each(prefix string, f func(key string, st state)) {
	w.Helper()
	for _, st := range states() {
		key := fmt.Sprintf("%s/%v", prefix, st)
		w.bring(key, st)
		f(key, st)
	}
}

// family brings about a key in each state under a prefix.
func (w *world) family(prefix string) (keys []string) {
	w.Helper()
	w.each(prefix, func(key string, _ state) { keys = append(keys, key) })
	return keys
}

// pipeline is how many batches of claims a KV has under way at the same time.
const pipeline = 2

// gate holds back transactions that name a key that begins with prefix.
type gate struct {
	prefix  string
	held    chan struct{} // gets one for each that is there
	release chan struct{} // closed to let all pass
}

func newGate(prefix string) *gate {
	return &gate{prefix: prefix, held: make(chan struct{}), release: make(chan struct{})}
}

// fill has as many claims under way as there can be batches of them, so that those
// of other keys gather behind them.
func (g *gate) fill(read func(key string), calls *sync.WaitGroup) {
	for i := range pipeline {
		calls.Go(func() { read(fmt.Sprint(g.prefix, i)) })
		<-g.held
	}
}

func (g *gate) option() etcdtest.ClientOption {
	return etcdtest.Intercept(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if names(req, g.prefix) {
			select {
			case g.held <- struct{}{}:
				<-g.release
			case <-g.release:
			}
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
}

// names reports whether a request is a transaction that names a key.
func names(req any, key string) bool {
	txn, ok := req.(*pb.TxnRequest)
	if !ok {
		return false
	}
	b, err := proto.Marshal(txn)
	return err == nil && bytes.Contains(b, []byte(key))
}

// watched is a context that tells when somebody waits for its end, too. A read
// does that once its claim is on its way.
type watched struct {
	context.Context
	once    sync.Once
	waiting chan struct{}
}

func watch(ctx context.Context) *watched {
	return &watched{Context: ctx, waiting: make(chan struct{})}
}

func (c *watched) Done() <-chan struct{} {
	c.once.Do(func() { close(c.waiting) })
	return c.Context.Done()
}
