package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"go.uber.org/zap"
)

// way is one way to etcd.
type way struct {
	name     string
	endpoint string
	pid      int // of the process that answers
}

// The ways, in the order in which they are shown.
const (
	direct = iota
	theirs
	ours
	floor
	waysThereAre
)

var wayNames = [waysThereAre]string{"direct", "etcd's leasing proxy", "leasing-proxy", "floor"}

// become makes this process an etcd, or etcd's proxy, so that nothing has to be
// installed, or the relay.
func become(what string, args []string) error {
	if what == "relay" {
		return serveRelay(args[0], args[1])
	}
	os.Args = append([]string{"etcd"}, args...)
	if what == "proxy" {
		os.Args = append([]string{"etcd", "grpc-proxy", "start"}, args...)
	}
	etcdmain.Main(os.Args)
	return nil
}

// startAll starts an etcd that syncs to disk, both proxies and the relay before it, each a process
// of its own, and returns the ways to it.
func startAll(ctx context.Context) (ways []way, stop func() error, err error) {
	dir, err := os.MkdirTemp("", "proxy-bench")
	if err != nil {
		return nil, func() error { return nil }, err
	}
	var running []*exec.Cmd
	stop = func() error {
		var errs []error
		for i := len(running) - 1; i >= 0; i-- {
			errs = append(errs, end(running[i]))
		}
		return errors.Join(append(errs, os.RemoveAll(dir))...)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, stop, err
	}
	program := filepath.Join(dir, "leasing-proxy")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/etcd-leasing/leasing/proxy/cmd/leasing-proxy")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, stop, fmt.Errorf("building leasing-proxy: %w\n%s", err, out)
	}
	// Like the proxy, the relay does not share its code in the processor's caches with etcd.
	relaying := filepath.Join(dir, "relay")
	if err := clone(self, relaying); err != nil {
		return nil, stop, err
	}
	at, err := freeAddresses(5)
	if err != nil {
		return nil, stop, err
	}
	etcd, peer := at[0], "http://"+at[1]
	for _, args := range [][]string{
		{self, "as", "etcd", "--data-dir", filepath.Join(dir, "data"), "--log-level", "error",
			"--listen-client-urls", "http://" + etcd, "--advertise-client-urls", "http://" + etcd,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer},
		{self, "as", "proxy", "--endpoints", etcd, "--listen-addr", at[2], "--experimental-leasing-prefix", "theirs/"},
		{program, "--endpoints", etcd, "--listen-addr", at[3], "--leasing-prefix", "ours/", "--log-level", "error"},
		{relaying, "as", "relay", at[4], etcd},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stderr = nil
		if err := cmd.Start(); err != nil {
			return nil, stop, err
		}
		running = append(running, cmd)
	}
	for i, addr := range [waysThereAre]string{etcd, at[2], at[3], at[4]} {
		ways = append(ways, way{wayNames[i], addr, running[i].Process.Pid})
		if err := waitFor(ctx, addr); err != nil {
			return nil, stop, fmt.Errorf("%s does not come up: %w", wayNames[i], err)
		}
	}
	return ways, stop, nil
}

// clone copies a program.
func clone(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o755)
}

// end stops a process, with force if it takes more than 10 s.
func end(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
	defer kill.Stop()
	cmd.Wait() // how it ends is its own affair
	return nil
}

func freeAddresses(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func waitFor(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cl, err := connect(addr)
	if err != nil {
		return err
	}
	defer cl.Close()
	for {
		once, stop := context.WithTimeout(ctx, time.Second)
		_, err := cl.Put(once, "up", "")
		stop()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func connect(addr string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{addr}, Logger: zap.NewNop()})
}
