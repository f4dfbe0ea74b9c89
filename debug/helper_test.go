package debug_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/debug"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// rig is a KV on an etcd in memory, in virtual time, and a page that shows it.
type rig struct {
	t    *testing.T
	srv  *memetcd.Server
	conn *memetcd.Conn
	kv   *leasing.KV
	page *debug.Page
}

const rigTTL = 60 * time.Second

// onRig runs a test. That it returns shows that no goroutine is left: synctest fails a test whose
// goroutines remain.
func onRig(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, conn := srv.Client("kv")
		r := &rig{t: t, srv: srv, conn: conn, kv: openKV(t, cl)}
		defer r.kv.Close()
		r.page = debug.New(r.kv)
		defer r.page.Close()
		test(t, r)
	})
}

func openKV(t *testing.T, cl *clientv3.Client) *leasing.KV {
	t.Helper()
	kv, err := leasing.New(t.Context(), cl, leasing.Config{Prefix: "claims/", TTL: rigTTL, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

// read reads a key n times.
func (r *rig) read(key string, n int) {
	r.t.Helper()
	for range n {
		if _, err := r.kv.Get(r.t.Context(), key); err != nil {
			r.t.Fatalf("reading %q: %v", key, err)
		}
	}
}

func (r *rig) put(kv *leasing.KV, key, value string) {
	r.t.Helper()
	if _, err := kv.Put(r.t.Context(), key, value); err != nil {
		r.t.Fatalf("writing %q: %v", key, err)
	}
}

// ask sends a request to the page. The header is a list of names and values.
func (r *rig) ask(method, target string, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	r.page.ServeHTTP(w, req)
	return w
}

func (r *rig) html() string {
	r.t.Helper()
	w := r.ask(http.MethodGet, "/")
	if w.Code != http.StatusOK {
		r.t.Fatalf("the page: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// state is what these tests want to know of the JSON.
type state struct {
	Session struct {
		State    string     `json:"state"`
		Since    *time.Time `json:"since"`
		Why      string     `json:"why"`
		Deadline float64    `json:"seconds_to_deadline"`
	} `json:"session"`
	Leases []struct {
		ID     string `json:"id"`
		Claims int    `json:"claims"`
	} `json:"leases"`
	Hottest []key      `json:"hottest_keys"`
	History []interval `json:"history"`
}

type key struct {
	Key    string `json:"key"`
	Base64 []byte `json:"key_base64"`
	Count  uint64 `json:"count"`
}

type interval struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Hits     int       `json:"hits"`
	Misses   int       `json:"misses"`
	HitRatio *float64  `json:"hit_ratio"`
	Keys     int       `json:"owned_keys"`
	Leases   int       `json:"leases"`
}

func (r *rig) json() (s state) {
	r.t.Helper()
	if err := json.Unmarshal(r.ask(http.MethodGet, "/?format=json").Body.Bytes(), &s); err != nil {
		r.t.Fatal(err)
	}
	return s
}
