package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// patience is how long the cluster may take for anything it is asked.
const patience = 30 * time.Second

// Cluster is a cluster of etcd members in this process. Members are numbered
// from 0. Its methods must not be called concurrently, except for those that
// make clients and relays.
type Cluster struct {
	tb      testing.TB // nil if made by Launch
	opts    options
	certs   *certificates // nil without TLS
	members []*member

	mu      sync.Mutex
	closers []func() // of clients and relays
	closed  bool
}

// Start starts a cluster that ends with the test, and waits until it answers.
func Start(tb testing.TB, opts ...Option) *Cluster {
	tb.Helper()
	c, err := Launch(tb.TempDir(), opts...)
	if err != nil {
		tb.Fatal(err)
	}
	c.tb = tb
	tb.Cleanup(c.Close)
	return c
}

// Launch starts a cluster outside of a test, and waits until it answers. It
// keeps its data in dir, which the caller removes after [Cluster.Close].
func Launch(dir string, opts ...Option) (c *Cluster, err error) {
	// Somebody else may take a port before etcd does.
	for range 3 {
		c, err = launch(dir, gather(opts))
		if !errors.Is(err, syscall.EADDRINUSE) {
			return c, err
		}
	}
	return nil, err
}

func launch(dir string, o options) (_ *Cluster, err error) {
	c := &Cluster{opts: o}
	defer func() {
		if err != nil {
			c.Close()
			for _, m := range c.members {
				err = errors.Join(err, m.removeData())
			}
		}
	}()
	if o.tls {
		if c.certs, err = newCertificates(filepath.Join(dir, "tls")); err != nil {
			return nil, err
		}
	}
	for i := range o.members {
		name := fmt.Sprint("m", i)
		m, err := newMember(name, filepath.Join(dir, name), o.tls)
		if err != nil {
			return nil, err
		}
		c.members = append(c.members, m)
	}
	for _, m := range c.members {
		if err := m.start(o, c.initialCluster(), c.certs); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, m := range c.members {
		if err := m.ready(ctx); err != nil {
			return nil, err
		}
	}
	if o.auth {
		if err := c.enableAuth(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Cluster) initialCluster() string {
	var all []string
	for _, m := range c.members {
		all = append(all, m.name+"="+m.peer)
	}
	return strings.Join(all, ",")
}

// Close ends everything: clients, relays and members. It may be called more
// than once; clusters made by [Start] need no call.
func (c *Cluster) Close() {
	c.mu.Lock()
	closers := c.closers
	c.closers, c.closed = nil, true
	c.mu.Unlock()
	for _, f := range closers {
		f()
	}
	var wg sync.WaitGroup
	for _, m := range c.members {
		// All at once: there is nobody to hand the leadership to.
		wg.Go(func() { m.stop(true) })
	}
	wg.Wait()
}

// onClose has f called by Close.
func (c *Cluster) onClose(f func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("etcdtest: the cluster is closed")
	}
	c.closers = append(c.closers, f)
	return nil
}

// must ends the test, or the process, if there is an error.
func (c *Cluster) must(err error) {
	if err == nil {
		return
	}
	if c.tb == nil {
		panic(err)
	}
	c.tb.Helper()
	c.tb.Fatal(err)
}

// Size returns the number of members, running or not.
func (c *Cluster) Size() int { return len(c.members) }

// Endpoint returns the URL of member i for clients.
func (c *Cluster) Endpoint(i int) string { return c.members[i].client }

// Endpoints returns the URLs of all members for clients.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, m := range c.members {
		all = append(all, m.client)
	}
	return all
}

// Member returns the running server i, or nil while it is stopped.
func (c *Cluster) Member(i int) *embed.Etcd { return c.members[i].etcd }

// Stop ends member i in good order: its connections are closed, a leader hands
// over first, and everything is on disk. Its ports and its data stay.
func (c *Cluster) Stop(i int) { c.members[i].stop(false) }

// Kill ends member i as a crash of its process would: a leader hands nothing
// over. What it wrote is still there, as the system goes on.
func (c *Cluster) Kill(i int) { c.members[i].stop(true) }

// Restart starts member i again, on the same ports and data, and waits until
// it answers. That takes a majority of running members, so after all of them
// were stopped, name those that shall be back together.
func (c *Cluster) Restart(members ...int) {
	if c.tb != nil {
		c.tb.Helper()
	}
	c.must(c.TryRestart(members...))
}

// TryRestart is [Cluster.Restart] with an error.
func (c *Cluster) TryRestart(members ...int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, i := range members {
		if c.members[i].etcd != nil {
			return fmt.Errorf("etcdtest: %s is running", c.members[i].name)
		}
		if err := c.members[i].start(c.opts, c.initialCluster(), c.certs); err != nil {
			return err
		}
	}
	for _, i := range members {
		if err := c.members[i].ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Leader returns the number of the member that leads, and waits until there is
// one. Of several that believe to lead it is the one with the latest term.
func (c *Cluster) Leader() int {
	if c.tb != nil {
		c.tb.Helper()
	}
	var leader int
	c.must(c.eventually("there is a leader", func() bool {
		leader = -1
		var term uint64
		for i, m := range c.members {
			if m.etcd == nil || m.etcd.Server.Leader() != m.etcd.Server.MemberID() {
				continue
			}
			if t := m.etcd.Server.Term(); t > term {
				leader, term = i, t
			}
		}
		return leader >= 0
	}))
	return leader
}

// MoveLeader makes member to the leader, and returns when it is.
func (c *Cluster) MoveLeader(to int) {
	if c.tb != nil {
		c.tb.Helper()
	}
	c.must(c.TryMoveLeader(to))
}

// TryMoveLeader is [Cluster.MoveLeader] with an error: etcd gives up a
// transfer that takes longer than an election may.
func (c *Cluster) TryMoveLeader(to int) error {
	if c.tb != nil {
		c.tb.Helper()
	}
	from := c.Leader()
	if from == to {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	old, next := c.members[from].etcd.Server, c.members[to].etcd.Server
	if err := old.MoveLeader(ctx, uint64(old.MemberID()), uint64(next.MemberID())); err != nil {
		return err
	}
	return c.eventually("the leader has moved", func() bool { return c.Leader() == to })
}

// Isolate cuts member i off from the other members, but not from its clients.
// [Cluster.Rejoin] ends that; so does a restart of any member, for that one.
func (c *Cluster) Isolate(i int) { c.eachPeer(i, (*peer).cut) }

// Rejoin ends what [Cluster.Isolate] did.
func (c *Cluster) Rejoin(i int) { c.eachPeer(i, (*peer).mend) }

// peer is one direction between two members.
type peer struct{ from, to *embed.Etcd }

func (p *peer) cut()  { p.from.Server.CutPeer(p.to.Server.MemberID()) }
func (p *peer) mend() { p.from.Server.MendPeer(p.to.Server.MemberID()) }

func (c *Cluster) eachPeer(i int, do func(*peer)) {
	one := c.members[i].etcd
	for j, m := range c.members {
		if j == i || m.etcd == nil || one == nil {
			continue
		}
		do(&peer{one, m.etcd})
		do(&peer{m.etcd, one})
	}
}

// eventually waits until ok.
func (c *Cluster) eventually(what string, ok func() bool) error {
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("etcdtest: not within %v: %s", patience, what)
		}
	}
	return nil
}
