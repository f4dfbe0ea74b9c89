// Command demo tells the story of a key that changes hands, on a real etcd
// that runs in this process, with the numbers of this machine. Each step is
// checked; the command fails if one does not hold. It needs Go alone, ends by
// itself, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/version"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

const (
	prefix = "leasing/"
	key    = "greeting"
	ttl    = 4 * time.Second

	// limit is how long the whole story may take.
	limit = 30 * time.Second
)

func main() {
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(interrupted, limit)
	defer cancel()
	switch err := demo(ctx); {
	case err == nil:
	case interrupted.Err() != nil:
		fmt.Fprintln(os.Stderr, "\ninterrupted")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "\nFAILED:", err)
		os.Exit(1)
	}
}

// demo starts etcd in a temporary folder, tells the story and removes both.
func demo(ctx context.Context) (err error) {
	began := time.Now()
	dir, err := os.MkdirTemp("", "leasing-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	etcd, err := etcdtest.Launch(dir, etcdtest.Fsync())
	if err != nil {
		return err
	}
	defer etcd.Close()

	s := &story{etcd: etcd}
	if s.plain, err = etcd.NewClient(etcd.Endpoints()); err != nil {
		return err
	}
	defer s.close()
	for _, a := range []*actor{&s.a, &s.b} {
		if err := a.appear(ctx, etcd); err != nil {
			return err
		}
	}
	fmt.Printf(`The story of a key that changes hands.

An etcd %s runs in this process, on loopback, with its data on disk. Two clients,
A and B, have a leasing KV each. Claims are kept under %q; their leases live for %v.
`, version.Version, prefix, ttl)
	if err := s.tell(ctx); err != nil {
		return err
	}
	fmt.Printf("\nEvery step held. The story took %s.\n", short(time.Since(began)))
	return nil
}

// actor is a client with a leasing KV, whose requests to etcd are counted.
type actor struct {
	kv   *leasing.KV
	sent etcdtest.Counter
}

func (a *actor) appear(ctx context.Context, etcd *etcdtest.Cluster) error {
	cl, err := etcd.NewClient(etcd.Endpoints(), a.sent.Option())
	if err != nil {
		return err
	}
	a.kv, err = leasing.New(ctx, cl, leasing.Config{Prefix: prefix, TTL: ttl})
	return err
}
