package leasing_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// trip is how long a message takes here. So what takes no time at all was
// answered from memory, and every other delay counts messages.
const trip = time.Millisecond

// cluster is an etcd in memory with the KVs on it, in virtual time.
type cluster struct {
	t    *testing.T
	srv  *memetcd.Server
	root *clientv3.Client // a plain client: the operator, who may do anything
	kvs  []*peer
}

// peer is one KV with its client.
type peer struct {
	*leasing.KV
	t    *testing.T
	cl   *clientv3.Client
	conn *memetcd.Conn
}

// onCluster runs a test on a cluster of its own. That it returns shows that no
// goroutine is left: synctest fails a test whose goroutines remain.
func onCluster(t *testing.T, opts memetcd.Options, test func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Helper()
		if opts.Latency == 0 {
			opts.Latency = trip
		}
		c := &cluster{t: t, srv: memetcd.New(opts)}
		defer c.srv.Close()
		c.root = c.srv.NewClient("root")
		defer func() {
			for _, p := range c.kvs {
				p.Close()
			}
			time.Sleep(10 * time.Second) // interceptors that still sleep come to an end
		}()
		test(t, c)
	})
}

// client connects a client that has no KV yet.
func (c *cluster) client(name string) *peer {
	p := &peer{t: c.t}
	p.cl, p.conn = c.srv.Client(name)
	return p
}

// open opens a KV whose leases last for ttl.
func (c *cluster) open(name string, ttl time.Duration) *peer {
	c.t.Helper()
	p := c.client(name)
	p.start(ttl)
	c.kvs = append(c.kvs, p)
	return p
}

func (p *peer) start(ttl time.Duration) {
	p.t.Helper()
	kv, err := leasing.New(within(p.t, time.Minute), p.cl, leasing.Config{Prefix: claimPrefix, TTL: ttl})
	if err != nil {
		p.t.Fatal(err)
	}
	p.KV = kv
}

// pair opens two KVs, "a" and "b".
func (c *cluster) pair(ttl time.Duration) (a, b *peer) {
	c.t.Helper()
	return c.open("a", ttl), c.open("b", ttl)
}

// value is what etcd holds; "-" if it does not exist.
func (c *cluster) value(key string) string {
	c.t.Helper()
	resp, err := c.root.Get(c.t.Context(), key)
	if err != nil {
		c.t.Fatal(err)
	}
	return valueOf(resp)
}

// claims is the claims there are, in order.
func (c *cluster) claims() []*mvccpb.KeyValue {
	c.t.Helper()
	resp, err := c.root.Get(c.t.Context(), claimPrefix, clientv3.WithPrefix())
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.Kvs
}

// claim is the claim of key; a zero one if there is none.
func (c *cluster) claim(key string) *mvccpb.KeyValue {
	c.t.Helper()
	for _, kv := range c.claims() {
		if string(kv.Key) == claimPrefix+key {
			return kv
		}
	}
	return new(mvccpb.KeyValue)
}

func valueOf(resp *clientv3.GetResponse) string {
	if len(resp.Kvs) == 0 {
		return "-"
	}
	return string(resp.Kvs[0].Value)
}

// get reads a key, which must not take longer than a minute.
func (p *peer) get(key string) string {
	p.t.Helper()
	resp, err := p.Get(within(p.t, time.Minute), key)
	if err != nil {
		p.t.Errorf("%s: get %q: %v", p.conn.Name(), key, err)
		return "error"
	}
	return valueOf(resp)
}

// put writes a key, which must not take longer than a minute.
func (p *peer) put(key, val string) {
	p.t.Helper()
	if _, err := p.Put(within(p.t, time.Minute), key, val); err != nil {
		p.t.Errorf("%s: put %q: %v", p.conn.Name(), key, err)
	}
}

// own makes p the owner of keys.
func (p *peer) own(keys ...string) {
	p.t.Helper()
	for _, key := range keys {
		p.get(key)
		if !p.serves(key) {
			p.t.Fatalf("%s does not own %q", p.conn.Name(), key)
		}
	}
}

// local reads a key from memory, if p can do so now. A read that cannot be
// answered so is given up before any message arrives; it may leave a claim.
func (p *peer) local(key string) (val string, ok bool) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), trip/2)
	defer cancel()
	resp, err := p.Get(ctx, key)
	if err != nil || time.Since(start) > 0 {
		return "", false
	}
	return valueOf(resp), true
}

// serves reports whether p reads key from memory.
func (p *peer) serves(key string) bool {
	_, ok := p.local(key)
	return ok
}

// cost is what the client of p sends to etcd's key-value store while f runs,
// such as "Range=1 Txn=2". Its leases and its watch are not of f's making.
func (p *peer) cost(f func()) string {
	p.t.Helper()
	synctest.Wait()
	before := p.conn.Sent()
	f()
	synctest.Wait()
	after := p.conn.Sent()
	var words []string
	for _, m := range slices.Sorted(maps.Keys(after)) {
		if n := after[m] - before[m]; n > 0 && m != memetcd.MethodWatch && !strings.HasPrefix(string(m), "Lease") {
			words = append(words, fmt.Sprintf("%s=%d", m, n))
		}
	}
	return strings.Join(words, " ")
}

// within is a context that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// took is how long f takes.
func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// want compares what a test got with what it should have got.
func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// commits tells what was committed since RecordTxns, one line a transaction:
// who sent it, and the operations of the branches that were taken.
func (c *cluster) commits() string {
	var lines []string
	for _, r := range c.srv.Txns() {
		lines = append(lines, r.Client+": "+strings.Join(taken(r.Request, r.Response), ", "))
	}
	return strings.Join(lines, "\n")
}

func taken(req *pb.TxnRequest, resp *pb.TxnResponse) (words []string) {
	ops := req.Success
	if !resp.Succeeded {
		ops = req.Failure
	}
	for i, op := range ops {
		switch op := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			words = append(words, fmt.Sprintf("get %s", op.RequestRange.Key))
		case *pb.RequestOp_RequestPut:
			words = append(words, fmt.Sprintf("put %s=%s", op.RequestPut.Key, op.RequestPut.Value))
		case *pb.RequestOp_RequestDeleteRange:
			words = append(words, fmt.Sprintf("delete %s", op.RequestDeleteRange.Key))
		case *pb.RequestOp_RequestTxn:
			words = append(words, taken(op.RequestTxn, resp.Responses[i].GetResponseTxn())...)
		}
	}
	return words
}

// lines is for comparing with commits.
func lines(s ...string) string { return strings.Join(s, "\n") }

// together runs n calls at once and waits for them.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
