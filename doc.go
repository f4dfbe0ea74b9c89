// Package leasing is a clientv3.KV for etcd that answers linearizable reads
// from memory.
//
// A [KV] takes the place of a client's KV. The first read of a key claims it:
// a transaction writes a claim, the etcd key prefix+key, under a lease of this
// KV. From then on the KV owns the key, and reads it without any network. A
// client that wants to write the key revokes the claim and waits until the
// owner has forgotten the key and yielded it; then it writes. Whatever cannot
// be answered from memory goes to etcd as the plain client would send it.
//
// The idea is that of C. Gray and D. Cheriton, "Leases: An Efficient
// Fault-Tolerant Mechanism for Distributed File Cache Consistency", SOSP 1989.
// The layout in etcd is that of etcd's own leasing package and leasing gRPC
// proxy, and all of them can share a prefix.
//
// # Guarantees
//
// Reads without WithSerializable are linearizable, from memory as from etcd.
// A write is applied at most once: it is sent in one transaction and is never
// sent again once its outcome is unknown. Replies are those of the plain
// client in every field; the revision in their headers never runs backwards
// for one KV, unless a read asks for stale data with WithSerializable. A
// caller may change any reply.
//
// These hold under the following assumptions:
//
//   - Every client that writes the keys does so through a KV with the same
//     prefix, of this package or of etcd's. (etcd's brings faults of its own:
//     its open-ended range deletions pass over other owners.)
//   - Nothing but claims is stored under the prefix. Data there is taken for
//     somebody's claim, and holds up writes.
//   - Nobody deletes claims or revokes their leases by hand. It is noticed
//     when it happens, but only after the delay of a watch.
//   - Clock rates differ by less than the margin covers: 5 % of the TTL, and
//     at least 1.2 s (a fifth of a TTL below 6 s, at least half a second).
//     What clocks show does not matter.
//   - The servers are at least 3.5.28, 3.6.9 or 3.7.0. Older ones may renew
//     leases on deposed leaders or serve stale linearizable reads.
//   - Nothing below the KV sends a transaction again whose outcome is unknown.
//     etcd's client does so if the server answers with the code Canceled or
//     DeadlineExceeded. A server without a leader may answer so, but of what it
//     never proposed. MaxUnaryRetries: 1 in the client's configuration rules
//     even that out, for reads as well.
//   - The TTL is at most 300 s where etcd's lease checkpointing is on. It is off by
//     default: --feature-gates=LeaseCheckpoint=true turns it on, and in etcd 3.5
//     --experimental-enable-lease-checkpoint.
//
// # Costs
//
// A read of an owned key costs no request. The first read of a key nobody owns
// costs one transaction, which goes through raft. The first reads of many keys at
// once share transactions. A read of a key that is known to be somebody else's
// costs one plain read, but for one every minute that tries to claim it; it is
// known from the watch, and from the first 5,000 claims when the KV begins.
//
// A write of a key that nobody else owns is one transaction. A write of a key that
// somebody else owns takes three: the request for it, the owner's yield, and the
// write. If the KV did not know of the owner, a deletion takes one more, which is
// refused: its first transaction holds no put, so that etcd takes deletions while it
// is out of space. A put then does so only if the last 64 keys that the KV wrote
// without owning them were nobody's: to be ready to revoke makes every put slower.
// Deletions of ranges list the claims of the range first.
//
// A key that was asked for rests before it is claimed again: 250 ms, and longer
// each time that owning it did not pay, up to 8 s. So readers do not hold up a
// writer, and a key that everybody writes is soon left to etcd. If it was read
// enough, its owner may claim it again as soon as it sees that it was written; but
// a twentieth of the time it rests all the same, for writers who are far away.
//
// What was read stays owned, also if it does not exist, until another client
// asks for it, until it is given back with [KV.Release], until more keys are owned
// than Config.MaxKeys and Config.MaxBytes allow and it is among those that are
// read least, until it was not read for Config.IdleTimeout, or until the KV is
// closed: one more key in etcd for each, and one lease to renew for each 1,000
// (100 with password authentication), and perhaps a spare.
// Every KV watches all claims under its prefix. Read huge key sets with the plain
// client, or set Config.ClaimAfter, so that only keys are claimed that are read
// more than once.
//
// Keys that are going to be read can be owned beforehand, with [KV.Prefetch]: a
// listing without values, and one transaction for 64 keys or so.
//
// # Seeing what happens
//
// [KV.Stats] counts what a KV does, [KV.TopKeys] tells which keys are read or asked for
// most, and Config.OnEvent is told of each change of the session and of ownership.
// Package metrics makes metrics for Prometheus of the first, package debug a page of all.
// The log tells of changes of the session at Info, of what needs somebody's attention
// at Warn, and of single requests at Debug alone.
//
// # Faults
//
// A KV that is cut off from etcd goes on serving what it owns until shortly
// before its leases can expire, and not past that; from then on reads go to
// etcd and fail there as they would for a plain client. Others who want to
// write its keys wait until its leases have expired: at most the TTL, 60 s if
// Config does not say otherwise, after the last renewal that reached etcd. So
// they do for a process that dies without Close. It heals by itself when etcd is
// back.
//
// While etcd is out of space (NOSPACE), puts are refused, reads and deletions
// work. But nobody can be asked to give a key back then, as that takes a put:
// the deletion of a key that another client owns is refused, too.
//
// A KV that may not watch or write the claim prefix claims nothing: reads go
// to etcd. Without the right to read claims all writes are refused, with etcd's
// permission error; without the right to write them, puts of single keys are,
// and every write that another owner must be asked for.
//
// What is owned was read with the rights of that time. Withdrawn rights on data
// do not take it away. Without the rights on claims etcd also refuses to renew
// their lease: all keys are given up at its deadline. An owner whose right to read
// a key was withdrawn cannot write it, as its write reads the key back, until it
// gives the key back with [KV.Release]. Of a transaction that is answered from
// memory, rights on the branch that is not taken are not checked. With
// [KV.Uncached] etcd judges each request.
//
// etcd's errors are passed on, some with more words: compare them with errors.Is.
//
// # Limits
//
// Keys under the claim prefix are claims. Single writes of them give
// [ErrClaimPrefix], deletions of ranges leave them alone, reads of ranges show
// them. Transactions need room for their guards within etcd's limit of 128
// operations: all 128 fit without comparisons, 127 with. Beside comparisons, up
// to 60 written keys get a guard each; more are guarded by ranges, as many as
// there is room for. What then still does not fit gives [ErrTxnTooLarge].
//
// A deletion of a range, or a transaction that is guarded by ranges, goes
// through only in a round trip in which nobody claims a key in the range: it
// waits as long as others go on claiming keys there several times in a round
// trip, because they read ever new ones, or more than they may own. A deletion that
// covers the claim prefix is divided in two, to spare the claims. If its end was open,
// etcd then refuses as a duplicate a put, in the same transaction, of a key in the
// first part.
//
// Guards also take bytes, a few times the length of each key to be written: a
// write that comes that close to etcd's limit on the size of requests gets
// etcd's error. Keys that carry a lease of their own are never owned.
//
// # Words
//
//   - lease: an etcd lease, nothing else
//   - claim: the etcd key prefix+key that says who owns key
//   - grant: the claim's create revision, the fencing token of one ownership
//   - own: hold a live grant
//   - foreign: owned by another client
//   - stranger: a program that writes keys and asks no owner
//   - revoke: ask an owner to give a key back
//   - yield: give a key back: forget it first, then delete the claim
//   - rest: the pause before a yielded key may be claimed again
//   - epoch: one life of the session; a new one owns nothing
//   - settle: report the outcome of a write: applied, refused or unknown
package leasing
