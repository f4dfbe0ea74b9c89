package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// quota leaves room for the million keys and their claims.
const quota = 8 << 30

// serve is what a server's process does: it runs an etcd with its data in dir,
// says where, and ends when its standard input does, which is at the latest
// when the process ends that has started it.
func serve(dir string) error {
	etcd, err := etcdtest.Launch(dir, etcdtest.Fsync(), etcdtest.Quota(quota))
	if err != nil {
		return err
	}
	defer etcd.Close()
	fmt.Println(etcd.Endpoint(0))
	return obey(os.Stdin)
}

// server is an etcd in a process of its own, so that neither its garbage nor
// its goroutines are taken for a client's.
type server struct {
	endpoint string
	dir      string
	cmd      *exec.Cmd
	stdin    io.WriteCloser
}

// startServer starts one with its data in a new folder in dir.
func startServer(ctx context.Context, dir string) (_ *server, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := new(server)
	if s.dir, err = os.MkdirTemp(dir, "leasing-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	cmd := exec.CommandContext(ctx, self, "-serve", s.dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.cmd, s.stdin = cmd, stdin
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("no etcd: %w", err)
	}
	s.endpoint = strings.TrimSpace(line)
	return s, nil
}

// stop ends the process and removes its data.
func (s *server) stop() error {
	if s.cmd != nil {
		_ = s.stdin.Close()
		late := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
		_ = s.cmd.Wait() // whatever it says, nothing is wanted of it any more
		late.Stop()
	}
	return os.RemoveAll(s.dir)
}
