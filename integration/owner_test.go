package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
	linear "github.com/etcd-leasing/leasing/internal/history" // another test has the name
)

// fltOwnerEnv is set in the processes that own keys for a test. They run this
// binary, and TestMain hands them over to fltObey.
const fltOwnerEnv = "LEASING_TEST_OWNER"

// fltOrders is what such a process is told, in its environment.
type fltOrders struct {
	Name     string // of the client, in the history
	Endpoint string
	TTL      time.Duration
	Keys     []string // to read, all at once
	Burst    int      // so many reads follow each other without a pause
	Clock    string   // the file of the clock
}

// fltReport is what it says of a read, a line each, on its standard output.
type fltReport struct {
	Key       string
	Client    string
	Call, Ret int64
	KV        *mvccpb.KeyValue
	Header    int64
	Local     int // how many reads of the key needed no request so far
}

func (r fltReport) read() linear.Read {
	return linear.Read{Client: r.Client, Call: r.Call, Ret: r.Ret, KV: r.KV, Header: r.Header, AsOf: true}
}

// fltObey owns and reads keys until its standard input ends, which is at the
// latest when the test's process does. It returns the exit code.
func fltObey(orders string) int {
	var o fltOrders
	err := json.Unmarshal([]byte(orders), &o)
	if err == nil {
		err = o.obey()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (o *fltOrders) obey() error {
	clock, err := fltMapClock(o.Clock)
	if err != nil {
		return err
	}
	cfg := etcdtest.ClientConfig([]string{o.Endpoint})
	fltNotices(&cfg)
	cl, err := clientv3.New(cfg)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	kv, err := leasing.New(ctx, cl, leasing.Config{Prefix: fltPrefix, TTL: o.TTL})
	if err != nil {
		return err
	}
	defer kv.Close()
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	errs := make([]error, len(o.Keys))
	var wg sync.WaitGroup
	for i, key := range o.Keys {
		r := &fltHotReader{name: fmt.Sprint(o.Name, "/", key), key: key, kv: kv, clock: clock, tell: func(r fltReport) error {
			mu.Lock()
			defer mu.Unlock()
			return out.Encode(r)
		}}
		wg.Go(func() { errs[i] = r.run(ctx, o.Burst) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// fltHotReader reads one key over and over. Of reads in a row that saw the
// same it reports the first and the last: a key is never again what it was
// before a write, so those between are right if these two are.
type fltHotReader struct {
	name, key string
	kv        clientv3.KV
	clock     *atomic.Int64
	tell      func(fltReport) error

	last   fltReport // the latest read
	untold bool      // it has not been reported
}

func (r *fltHotReader) run(ctx context.Context, burst int) error {
	for ctx.Err() == nil {
		for i := 0; i < burst && ctx.Err() == nil; i++ {
			if err := r.read(ctx); err != nil {
				return err
			}
		}
		time.Sleep(2 * time.Millisecond) // leaves the other processes some time
	}
	return r.flush()
}

// read does one read. One that is not answered says nothing.
func (r *fltHotReader) read(ctx context.Context) error {
	var forwarded atomic.Bool
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, fltForwarded{}, &forwarded), 3*time.Second)
	defer cancel()
	call := r.clock.Add(1)
	resp, err := r.kv.Get(ctx, r.key)
	if err != nil {
		return nil
	}
	now := fltReport{
		Key: r.key, Client: r.name, Call: call, Ret: r.clock.Add(1), Header: resp.Header.Revision, Local: r.last.Local,
	}
	if len(resp.Kvs) > 0 {
		now.KV = resp.Kvs[0]
	}
	if !forwarded.Load() {
		now.Local++
	}
	if now.Header < r.last.Header {
		return fmt.Errorf("%s: header revision %d after %d", r.name, now.Header, r.last.Header)
	}
	same := r.last.Key != "" && proto.Equal(now.KV, r.last.KV)
	if !same {
		if err := r.flush(); err != nil {
			return err
		}
	}
	r.last, r.untold = now, true
	if !same {
		return r.flush()
	}
	return nil
}

func (r *fltHotReader) flush() error {
	if !r.untold {
		return nil
	}
	r.untold = false
	return r.tell(r.last)
}

// fltOwner is a process that owns and reads keys.
type fltOwner struct {
	t   *testing.T
	h   *fltHistory // gets what it reads
	cmd *exec.Cmd

	stdin   io.Closer
	stderr  bytes.Buffer
	told    chan struct{} // closed when it says no more
	waiting sync.Once
	result  error // of waiting

	mu     sync.Mutex
	latest map[string]fltReport
}

// fltStartOwner starts a process that reads all keys of h, whose clock must
// not have been used yet. It is killed with the test.
func fltStartOwner(t *testing.T, h *fltHistory, orders fltOrders) *fltOwner {
	t.Helper()
	orders.Keys, orders.Clock = h.keys, filepath.Join(t.TempDir(), "clock")
	var err error
	if h.clock, err = fltMapClock(orders.Clock); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(orders)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := &fltOwner{t: t, h: h, cmd: exec.Command(exe), told: make(chan struct{}), latest: make(map[string]fltReport)}
	o.cmd.Env = append(os.Environ(), fltOwnerEnv+"="+string(text))
	o.cmd.SysProcAttr = fltApart()
	o.cmd.Stderr = &o.stderr
	if o.stdin, err = o.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := o.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = o.cmd.Process.Kill() // it may have ended in good order
		_ = o.wait()
	})
	go o.listen(stdout)
	return o
}

// listen takes reports until there are no more.
func (o *fltOwner) listen(stdout io.Reader) {
	defer close(o.told)
	for in := json.NewDecoder(stdout); ; {
		var r fltReport
		if err := in.Decode(&r); err != nil {
			return // the exit code tells whether that is right
		}
		o.mu.Lock()
		o.latest[r.Key] = r
		o.mu.Unlock()
		o.h.add(r.Key, r.read())
	}
}

func (o *fltOwner) wait() error {
	<-o.told
	o.waiting.Do(func() { o.result = o.cmd.Wait() })
	return o.result
}

// end lets the process end in good order, after it has reported everything.
func (o *fltOwner) end() {
	o.t.Helper()
	_ = o.stdin.Close()
	select {
	case <-o.told:
	case <-time.After(fltPatience):
		o.t.Fatal("the owner does not end")
	}
	if err := o.wait(); err != nil {
		o.t.Errorf("the owner: %v\n%s", err, o.stderr.String())
	}
}

// freeze stops the process where it is, and returns when it stands still.
func (o *fltOwner) freeze() {
	o.t.Helper()
	if err := fltFreeze(o.cmd.Process); err != nil {
		o.t.Errorf("the owner cannot be frozen: %v", err)
	}
}

// thaw lets it go on.
func (o *fltOwner) thaw() {
	o.t.Helper()
	if err := fltThaw(o.cmd.Process); err != nil {
		o.t.Errorf("the owner cannot be thawed: %v", err)
	}
}

// saw returns the latest read of key that has been reported.
func (o *fltOwner) saw(key string) fltReport {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.latest[key]
}

// local returns how many reads needed no request, as far as is known.
func (o *fltOwner) local() (n int) {
	for _, key := range o.h.keys {
		n += o.saw(key).Local
	}
	return n
}
