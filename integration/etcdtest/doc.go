// Package etcdtest runs real etcd members inside the test process, and breaks
// them and the way to them.
//
//	func TestX(t *testing.T) {
//		etcd := etcdtest.Start(t, etcdtest.Members(3))
//		cli := etcd.Client(0) // a plain client of member 0
//		...
//		etcd.Stop(0)
//		etcd.Restart(0)
//	}
//
// Everything that a [Cluster] hands out ends with the test: clients, relays
// and members. Nothing is left behind but what is in the test's own folder,
// which package testing removes.
//
// # Failing
//
// The methods of a cluster that was made by [Start] end the test when they
// fail, so they must be called from the test's own goroutine. A cluster made
// by [Launch], which needs no test, panics in them, except in those that
// return an error.
//
// # The way to a member
//
// [Cluster.Relay] puts a TCP relay in front of a member and [Cluster.ClientVia]
// goes through it. A relay can hold back either direction, delay it, reset its
// connections and refuse new ones. A write whose outcome its sender never
// learns is made with [Relay.LoseReply]:
//
//	relay := etcd.Relay(0)
//	cli := etcd.ClientVia(relay)
//	relay.LoseReply(
//		func() { _, err = cli.Put(ctx, "k", "v") },
//		func() bool { return hasKey(other, "k") },
//	)
//
// # Counting
//
// A [Counter] counts what a client sends, re-sent requests included.
package etcdtest
