package leasing

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// rig is a KV on an etcd in memory, in virtual time, whose requests a test can
// tamper with.
type rig struct {
	t    *testing.T
	srv  *memetcd.Server
	conn *memetcd.Conn
	kv   *KV
	logs *observer.ObservedLogs
}

const rigTTL = 60 * time.Second

func onRig(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	onRigOf(t, Config{}, test)
}

// fourPerLease is a configuration with many leases for few keys.
var fourPerLease = Config{perLease: 4}

// onRigOf is onRig with what cfg says besides.
func onRigOf(t *testing.T, cfg Config, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, conn := srv.Client("kv")
		core, logs := observer.New(zapcore.InfoLevel)
		cfg.Prefix, cfg.TTL, cfg.Logger = "claims/", rigTTL, zap.New(core)
		kv, err := New(t.Context(), cl, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		test(t, &rig{t: t, srv: srv, conn: conn, kv: kv, logs: logs})
	})
}

type next = func(context.Context) (proto.Message, error)

// on lets f decide what becomes of the KV's requests by one method.
func (r *rig) on(m memetcd.Method, f func(ctx context.Context, req proto.Message, do next) (proto.Message, error)) {
	r.conn.Intercept(func(ctx context.Context, call *memetcd.Call, do next) (proto.Message, error) {
		if call.Method == m {
			return f(ctx, call.Request, do)
		}
		return do(ctx)
	})
}

// get reads within a second and a half, and returns how long that took.
func (r *rig) get(key string) time.Duration {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 1500*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := r.kv.Get(ctx, key); err != nil {
		r.t.Errorf("reading %q: %v", key, err)
	}
	return time.Since(begin)
}

// put writes through the KV.
func (r *rig) put(key, value string) {
	r.t.Helper()
	if _, err := r.kv.Put(r.t.Context(), key, value); err != nil {
		r.t.Errorf("writing %q: %v", key, err)
	}
}

func (r *rig) wantOwned(keys ...string) {
	r.t.Helper()
	for _, k := range keys {
		if r.kv.cache.lookup(k) == nil {
			r.t.Errorf("%q is not owned", k)
		}
	}
}

// claims returns the keys that are claimed in etcd.
func (r *rig) claims() (keys []string) {
	r.t.Helper()
	resp, err := r.srv.NewClient("look").Get(r.t.Context(), "claims/", clientv3.WithPrefix())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		keys = append(keys, strings.TrimPrefix(string(kv.Key), "claims/"))
	}
	return keys
}

func (r *rig) sent() int { return r.conn.Sent()[memetcd.MethodTxn] }

// names reports whether a transaction mentions a key.
func names(req proto.Message, key string) bool {
	return strings.Contains(req.(*etcdserverpb.TxnRequest).String(), `"`+key+`"`)
}
