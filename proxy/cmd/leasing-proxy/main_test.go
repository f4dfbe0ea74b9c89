package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// asProgram makes the test's own binary the program.
const asProgram = "TEST_OF_LEASING_PROXY"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// program is the program in a process of its own.
type program struct {
	*exec.Cmd
	t    *testing.T
	addr string
	errs bytes.Buffer // after its first lines
	read chan struct{}
}

// launch runs the program until it serves.
func launch(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	p := &program{t: t, addr: freeAddr(t), read: make(chan struct{})}
	p.Cmd = exec.Command(os.Args[0], append(args, "--listen-addr", p.addr)...)
	p.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	out, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill(); <-p.read; p.Wait() })
	serving := make(chan struct{})
	go func() {
		defer close(p.read)
		lines, told := bufio.NewScanner(out), false
		for lines.Scan() {
			fmt.Fprintln(&p.errs, lines.Text())
			if !told && strings.Contains(lines.Text(), `"msg":"serving"`) {
				told = true
				close(serving)
			}
		}
	}()
	select {
	case <-serving:
	case <-p.read:
		t.Fatalf("it ended before it served: %s", &p.errs)
	case <-time.After(time.Minute):
		t.Fatal("it does not serve")
	}
	return p
}

// ends waits for the end, and returns the exit code.
func (p *program) ends() int {
	p.t.Helper()
	select {
	case <-p.read:
	case <-time.After(time.Minute):
		p.t.Fatal("it does not end")
	}
	p.Wait()
	return p.ProcessState.ExitCode()
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// client returns a client, and a context for what it does.
func client(t *testing.T, addr string) (*clientv3.Client, context.Context) {
	t.Helper()
	cl, err := clientv3.New(etcdtest.ClientConfig([]string{addr}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return cl, ctx
}

// claim reads a key until the claim of it is in etcd.
func claim(t *testing.T, cl *clientv3.Client, plain *clientv3.Client, ctx context.Context) {
	t.Helper()
	for claims(t, plain, ctx) == 0 {
		if _, err := cl.Get(ctx, "k"); err != nil {
			t.Fatal(err)
		}
	}
}

func claims(t *testing.T, plain *clientv3.Client, ctx context.Context) int64 {
	t.Helper()
	resp, err := plain.Get(ctx, "leasing/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return resp.Count
}

// SIGTERM and SIGINT end the program with 0, and leave no claims.
func TestSignals(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		p := launch(t, []string{"LEASING_PROXY_ENDPOINTS=" + etcd.Endpoint(0)})
		cl, ctx := client(t, p.addr)
		<-cl.Watch(ctx, "k", clientv3.WithCreatedNotify()) // which never ends by itself
		claim(t, cl, etcd.Client(0), ctx)
		if err := p.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if code := p.ends(); code != exitOK {
			t.Errorf("%v: exit code %d: %s", sig, code, &p.errs)
		}
		lines := strings.Split(strings.TrimSpace(p.errs.String()), "\n")
		if last := lines[len(lines)-1]; !strings.Contains(last, `"msg":"stopped"`) {
			t.Errorf("%v: the last line is %s", sig, last)
		}
		if n := claims(t, etcd.Client(0), ctx); n != 0 {
			t.Errorf("%v: %d claims are left", sig, n)
		}
	}
}

// A second signal does not wait for anything.
func TestSecondSignal(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	relay := etcd.Relay(0)
	p := launch(t, nil, "--endpoints", relay.URL(), "--stop-timeout", "10m")
	cl, ctx := client(t, p.addr)
	relay.Cut()
	go cl.Put(ctx, "k", "v") // is not answered
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for p.Process.Signal(syscall.SIGTERM) == nil {
			select {
			case <-p.read:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	if code := p.ends(); code == exitOK {
		t.Errorf("exit code %d", code)
	}
	<-stopped
	cl.Close()
}

// The program runs an etcd of its own, and again on what that has stored.
func TestEmbedded(t *testing.T) {
	dir := t.TempDir()
	for i, want := range []int64{0, 1} {
		web := freeAddr(t)
		p := launch(t, nil, "--embedded", dir, "--metrics-addr", web)
		for _, path := range []string{"/metrics", "/health", "/readyz", "/debug/leasing"} {
			if resp, err := http.Get("http://" + web + path); err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %v, %v", path, resp, err)
			} else {
				resp.Body.Close()
			}
		}
		http.DefaultClient.CloseIdleConnections()
		cl, ctx := client(t, p.addr)
		if resp, err := cl.Get(ctx, "k"); err != nil || resp.Count != want {
			t.Errorf("start %d: %v, %v", i, resp, err)
		}
		if _, err := cl.Put(ctx, "k", "v"); err != nil {
			t.Fatal(err)
		}
		var errs bytes.Buffer
		second := []string{"--embedded", dir, "--listen-addr", "127.0.0.1:0"}
		if code := run(t.Context(), second, nil, io.Discard, &errs); code != exitFailure || !strings.Contains(errs.String(), "in use") {
			t.Errorf("a second one there: %d, %s", code, &errs)
		}
		p.Process.Signal(syscall.SIGTERM)
		if code := p.ends(); code != exitOK {
			t.Errorf("exit code %d: %s", code, &p.errs)
		}
		if strings.Contains(p.errs.String(), `"level":"error"`) {
			t.Errorf("errors: %s", &p.errs)
		}
	}
}

// What cannot be meant ends with 2 and names the flag; what does not work ends with 1.
func TestExitCodes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tc := range []struct {
		args string
		code int
		says string
	}{
		{"--help", exitOK, "--endpoints addresses"},
		{"--version", exitOK, "etcd API: 3.7"},
		{"--nonsense", exitUsage, "--nonsense"},
		{"put k v", exitUsage, "unexpected argument"},
		{"--ttl 1ms", exitUsage, "--ttl"},
		{"--listen-addr " + taken.Addr().String(), exitFailure, "--listen-addr"},
		{"--listen-addr 127.0.0.1:0 --dial-timeout 10m --metrics-addr " + taken.Addr().String(), exitFailure, "--metrics-addr"},
		{"--listen-addr 127.0.0.1:0 --endpoints 127.0.0.1:1 --dial-timeout 100ms", exitFailure, "127.0.0.1:1"},
		{"--listen-addr 127.0.0.1:0 --embedded /dev/null/x", exitFailure, "--embedded"},
		{"--embedded /dev/null/x --endpoints 192.0.2.1:1", exitUsage, "others can reach it"},
		{"--listen-addr nowhere", exitUsage, "--listen-addr"},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), strings.Fields(tc.args), nil, &out, &errs)
		if code != tc.code || !strings.Contains(out.String()+errs.String(), tc.says) {
			t.Errorf("%s: %d, %s%s", tc.args, code, &out, &errs)
		}
	}
}
