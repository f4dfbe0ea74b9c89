package etcdtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

func TestRelay(t *testing.T) {
	etcd := etcdtest.Start(t)
	direct := etcd.Client(0)
	relay := etcd.Relay(0)
	cli := etcd.ClientVia(relay)

	// try puts value with little patience.
	try := func(value string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := cli.Put(ctx, "k", value)
		return err
	}
	value := func() string { return get(t, direct, "k") }
	put(t, cli, "k", "0")

	t.Run("cut requests", func(t *testing.T) {
		relay.Cut(etcdtest.Requests)
		if err := try("1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("put: %v", err)
		}
		if value() != "0" {
			t.Error("the request has got through")
		}
		// As in a network, the request still arrives, together with the news
		// that its sender has given up; etcd may apply it or not.
		relay.Heal()
		put(t, cli, "k", "0")
	})
	t.Run("cut replies", func(t *testing.T) {
		relay.Cut(etcdtest.Replies)
		if err := try("2"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("put: %v", err)
		}
		eventually(t, "the request gets through", func() bool { return value() == "2" })
		relay.Heal()
		put(t, cli, "k", "0")
	})
	t.Run("heal brings what was held back", func(t *testing.T) {
		relay.Cut()
		err := make(chan error)
		go func() {
			_, e := cli.Put(t.Context(), "k", "3")
			err <- e
		}()
		select {
		case e := <-err:
			t.Fatalf("put through a cut relay: %v", e)
		case <-time.After(50 * time.Millisecond):
		}
		relay.Heal(etcdtest.Requests)
		eventually(t, "the request gets through", func() bool { return value() == "3" })
		relay.Heal(etcdtest.Replies)
		if e := <-err; e != nil {
			t.Errorf("put: %v", e)
		}
	})
	t.Run("delay", func(t *testing.T) {
		for _, dirs := range [][]etcdtest.Direction{{etcdtest.Requests}, {etcdtest.Replies}} {
			relay.Delay(50*time.Millisecond, dirs...)
			begin := time.Now()
			put(t, cli, "k", "4")
			if took := time.Since(begin); took < 50*time.Millisecond || took > 5*time.Second {
				t.Errorf("a put with a delay in %v took %v", dirs, took)
			}
			relay.Delay(0)
		}
	})
	t.Run("reset and drop", func(t *testing.T) {
		for _, end := range []func() int{relay.Reset, relay.Drop} {
			before := relay.Accepted()
			if n := end(); n == 0 {
				t.Error("there was no connection")
			}
			get(t, cli, "k") // clientv3 sends reads again, if it has to
			if relay.Accepted() == before {
				t.Error("there is no new connection")
			}
		}
	})
	t.Run("refuse", func(t *testing.T) {
		relay.Refuse()
		put(t, cli, "k", "6") // on the connection that is there
		relay.Reset()
		if err := try("7"); err == nil {
			t.Error("put without a connection")
		}
		if err := relay.Accept(); err != nil {
			t.Fatal(err)
		}
		put(t, cli, "k", "8")
	})
	t.Run("lose a reply", func(t *testing.T) {
		var err error
		lost := relay.LoseReply(
			func() { _, err = cli.Put(t.Context(), "k", "9") },
			func() bool { return value() == "9" },
		)
		if lost != nil || err == nil {
			t.Errorf("put: %v; %v", err, lost)
		}
		put(t, cli, "k", "10")
	})
}

// A watch through the relay is cut and comes back without missing anything.
func TestRelayWatch(t *testing.T) {
	etcd := etcdtest.Start(t)
	direct := etcd.Client(0)
	relay := etcd.Relay(0)
	events := etcd.ClientVia(relay).Watch(t.Context(), "k", clientv3.WithCreatedNotify())
	<-events
	relay.Cut(etcdtest.Replies)
	put(t, direct, "k", "1")
	select {
	case resp := <-events:
		t.Fatalf("through a cut relay came %v", resp.Events)
	case <-time.After(50 * time.Millisecond):
	}
	relay.Heal()
	if resp := <-events; len(resp.Events) != 1 || string(resp.Events[0].Kv.Value) != "1" {
		t.Errorf("got %v", resp.Events)
	}
	relay.Cut()
	put(t, direct, "k", "2")
	relay.Reset()
	relay.Heal()
	if resp := <-events; len(resp.Events) != 1 || string(resp.Events[0].Kv.Value) != "2" {
		t.Errorf("got %v", resp.Events)
	}
}
