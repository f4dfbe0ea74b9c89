// Package memetcd is an etcd server in memory, for tests. It has no network and no disk, and it
// keeps time with package time alone, so that it runs in virtual time inside a testing/synctest bubble.
//
// A [Server] answers as etcd 3.7 answers: the replies and the errors of its key-value store, leases and
// watches are those of the real server, field by field (integration/memetcd_test.go compares the two).
// What a test talks to is a real clientv3.Client, whose own layers do what they do in production; only
// the gRPC connection below them is replaced, by a [Conn]:
//
//	srv := memetcd.New(memetcd.Options{})
//	defer srv.Close()
//	cli, conn := srv.Client("a")
//
// # Faults
//
// Each client has a connection of its own, which a test can break: [Conn.Cut] makes one or both
// directions swallow everything until [Conn.Heal], [Conn.Reset] fails whatever is under way,
// [Conn.DelayWatch] makes watch events late, [Conn.Deny] takes rights away, and [Conn.Intercept] puts
// the test between the client and the server, request by request. [Server.LoseLeader],
// [Server.Stall], [Server.SetNoSpace] and [Server.Compact] are the faults of the server itself, and
// Options.ClockRate makes its clock run faster than the clients'.
//
// # Time
//
// Everything that waits, waits on channels and timers that belong to the goroutine's bubble. So does
// clientv3, with one exception that this package repairs (see synctest.go). Inside a bubble, create the
// server and its clients in it, and call [Server.Close] before it ends.
//
// # What is different from etcd
//
//   - A put with ignore_value or ignore_lease of a key that was deleted earlier in the same transaction
//     kills a real server; here it panics. A key that one transaction deletes and puts again is lost by a
//     real server when it is compacted to that very revision; here it stays.
//   - A lease that has run out is revoked at once (etcd looks twice a second), and after an election
//     leases get their full TTL, without the election timeout that etcd adds.
//   - Watches catch up at once. Nothing is ever held back because a client reads too slowly, so that
//     compaction never overtakes a watch that was once in step.
//   - There is one member, which never serves stale data. Reads that wait for a new leader are answered
//     by it, where etcd may refuse them because the leader changed.
//   - A write within a byte or two of the size limit may be decided otherwise, and a streamed range with a
//     sort target but no order is not cut up the way etcd does it.
//   - Replies come in a reproducible order where etcd's is random: the keys of a lease, the watches of one
//     stream.
//   - Permissions are one function per connection; there are no users, roles or tokens.
package memetcd
