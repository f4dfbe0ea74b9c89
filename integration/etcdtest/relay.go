package etcdtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Direction is one way through a [Relay].
type Direction int

// The two directions. Methods that take some mean both when they get none.
const (
	Requests Direction = iota // from the client to the member
	Replies                   // from the member to the client
)

func orBoth(dirs []Direction) []Direction {
	if len(dirs) == 0 {
		return []Direction{Requests, Replies}
	}
	return dirs
}

// Relay is a TCP relay in front of a member. Like a network, it loses nothing
// of a connection that lives: what is held back arrives after [Relay.Heal], or
// the connection ends. Its methods may be called concurrently.
type Relay struct {
	scheme, target string // of the member

	wg sync.WaitGroup

	// mu is never held while anything is read or written.
	mu       sync.Mutex
	addr     string
	listener net.Listener // nil while connections are refused
	closed   bool
	pairs    map[*pair]struct{}
	lanes    [2]lane
	changed  chan struct{} // closed and replaced when a lane changes
	accepted int
}

// lane is what happens to everything that goes in one direction.
type lane struct {
	cut   bool
	delay time.Duration
}

// Relay puts a new relay in front of member i. The cluster closes it.
func (c *Cluster) Relay(i int) *Relay {
	if c.tb != nil {
		c.tb.Helper()
	}
	r, err := NewRelay(c.Endpoint(i))
	c.must(err)
	c.must(c.onClose(r.Close))
	return r
}

// NewRelay puts a relay in front of the member with the URL endpoint. The
// caller closes it.
func NewRelay(endpoint string) (*Relay, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	r := &Relay{
		scheme: u.Scheme, target: u.Host, addr: loopback(port),
		pairs: make(map[*pair]struct{}), changed: make(chan struct{}),
	}
	return r, r.Accept()
}

// URL returns what a client takes for the member's URL.
func (r *Relay) URL() string { return r.scheme + "://" + r.addr }

// Cut holds back everything that goes in the directions, ends of connections
// included, as a network that swallows packets does. New connections are still
// accepted, but nothing gets through them either.
func (r *Relay) Cut(dirs ...Direction) { r.setLanes(dirs, func(l *lane) { l.cut = true }) }

// Heal lets through what [Relay.Cut] has held back, and all that follows.
func (r *Relay) Heal(dirs ...Direction) { r.setLanes(dirs, func(l *lane) { l.cut = false }) }

// Delay makes everything that goes in the directions arrive so much later, in
// its order, no matter how much of it is under way. Zero ends that.
func (r *Relay) Delay(d time.Duration, dirs ...Direction) {
	r.setLanes(dirs, func(l *lane) { l.delay = d })
}

func (r *Relay) setLanes(dirs []Direction, set func(*lane)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range orBoth(dirs) {
		set(&r.lanes[d])
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// Reset ends all connections at once, on both sides, as a crash does: with an
// RST, and without what was under way. It returns how many there were.
func (r *Relay) Reset() int { return r.end((*pair).reset) }

// Drop ends all connections at once, on both sides, in good order. What was
// under way is lost. It returns how many there were.
func (r *Relay) Drop() int { return r.end((*pair).close) }

func (r *Relay) end(how func(*pair)) int {
	r.mu.Lock()
	var all []*pair
	for p := range r.pairs {
		all = append(all, p)
	}
	r.mu.Unlock()
	for _, p := range all {
		how(p)
	}
	return len(all)
}

// Refuse refuses new connections until [Relay.Accept]; those that are there go
// on.
func (r *Relay) Refuse() {
	r.mu.Lock()
	l := r.listener
	r.listener = nil
	r.mu.Unlock()
	if l != nil {
		_ = l.Close()
	}
}

// Accept takes new connections again.
func (r *Relay) Accept() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		return fmt.Errorf("etcdtest: relay: %w", err)
	}
	r.listener = l
	r.wg.Go(func() { r.serve(l) })
	return nil
}

// Accepted returns how many connections have been made so far.
func (r *Relay) Accepted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted
}

// LoseReply has call send a request whose answer it never gets: it holds the
// replies back, calls call on another goroutine, asks applied until it says
// that etcd has carried the request out, resets all connections, and lets
// replies through again. It returns when call has returned.
//
// The client must be connected already, as nobody connects without replies,
// and applied must not go through the relay. An error means that the request
// was not applied in time.
func (r *Relay) LoseReply(call func(), applied func() bool) error {
	done := make(chan struct{})
	defer func() { <-done }()
	r.Cut(Replies)
	go func() {
		defer close(done)
		call()
	}()
	var err error
	for end := time.Now().Add(patience); !applied(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			err = fmt.Errorf("etcdtest: the request was not applied within %v", patience)
			break
		}
	}
	r.Reset()
	r.Heal(Replies)
	return err
}

// Close ends the relay and all its connections, and waits for that.
func (r *Relay) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.Refuse()
	r.Reset()
	r.wg.Wait()
}

// serve accepts connections until its listener is closed.
func (r *Relay) serve(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() { r.join(client.(*net.TCPConn)) })
	}
}

// join connects client to the member until both are done.
func (r *Relay) join(client *net.TCPConn) {
	conn, err := net.DialTimeout("tcp", r.target, patience)
	if err != nil {
		abort(client)
		return
	}
	p := &pair{ends: [2]*net.TCPConn{Requests: conn.(*net.TCPConn), Replies: client}, done: make(chan struct{})}
	r.mu.Lock()
	r.accepted++
	r.pairs[p] = struct{}{}
	closed := r.closed
	r.mu.Unlock()
	if closed {
		p.reset()
	}
	var wg sync.WaitGroup
	for _, d := range []Direction{Requests, Replies} {
		packets := make(chan packet, 1024)
		wg.Go(func() { p.read(d, packets) })
		wg.Go(func() { r.write(p, d, packets) })
	}
	wg.Wait()
	p.close()
	r.mu.Lock()
	delete(r.pairs, p)
	r.mu.Unlock()
}

// pair is one connection through the relay: that with the member, where
// requests go, and that with the client, where replies go.
type pair struct {
	ends [2]*net.TCPConn

	once sync.Once
	done chan struct{} // closed when both ends are closed
}

// packet is what one read returned, and when. With an error it is the last one
// of its direction.
type packet struct {
	data []byte
	err  error
	at   time.Time
}

// read reads what goes in direction d.
func (p *pair) read(d Direction, packets chan<- packet) {
	buf := make([]byte, 64<<10)
	for {
		n, err := p.ends[1-d].Read(buf)
		select {
		case packets <- packet{data: slices.Clone(buf[:n]), err: err, at: time.Now()}:
		case <-p.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// write writes what goes in direction d, when it is due.
func (r *Relay) write(p *pair, d Direction, packets <-chan packet) {
	for {
		var next packet
		select {
		case next = <-packets:
		case <-p.done:
			return
		}
		if !r.due(p, d, next.at) {
			return
		}
		if len(next.data) > 0 {
			if _, err := p.ends[d].Write(next.data); err != nil {
				p.reset()
				return
			}
		}
		switch {
		case next.err == nil:
		case errors.Is(next.err, io.EOF):
			_ = p.ends[d].CloseWrite()
			return
		default:
			p.reset()
			return
		}
	}
}

// due waits until what was read at that time may go on in direction d. It
// returns false if the connection has ended.
func (r *Relay) due(p *pair, d Direction, read time.Time) bool {
	for {
		r.mu.Lock()
		l, changed := r.lanes[d], r.changed
		r.mu.Unlock()
		wait := l.delay - time.Since(read)
		if !l.cut && wait <= 0 {
			return true
		}
		var timer <-chan time.Time
		if !l.cut {
			timer = time.After(wait)
		}
		select {
		case <-timer:
		case <-changed:
		case <-p.done:
			return false
		}
	}
}

func (p *pair) close() { p.finish((*net.TCPConn).Close) }
func (p *pair) reset() { p.finish(abort) }

func (p *pair) finish(how func(*net.TCPConn) error) {
	p.once.Do(func() {
		for _, c := range p.ends {
			_ = how(c)
		}
		close(p.done)
	})
}

// abort closes c with an RST.
func abort(c *net.TCPConn) error {
	_ = c.SetLinger(0)
	return c.Close()
}
