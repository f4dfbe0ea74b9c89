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
//   - Nobody deletes claims or revokes their leases by hand. It is noticed
//     when it happens, but only after the delay of a watch.
//   - Clock rates differ by less than the margin covers: 5 % of the TTL, and
//     at least half a second. What clocks show does not matter.
//   - The servers are at least 3.5.28, 3.6.9 or 3.7.0. Older ones may renew
//     leases on deposed leaders or serve stale linearizable reads.
//   - Nothing below the KV sends a transaction again whose outcome is unknown.
//     etcd's client does so if the server answers with the code Canceled or
//     DeadlineExceeded. A server without a leader may answer so, but of what it
//     never proposed. MaxUnaryRetries: 1 in the client's configuration rules
//     even that out, for reads as well.
//   - The TTL is at most 300 s where etcd's lease checkpointing is on.
//
// # Costs
//
// A read of an owned key costs no request. The first read of a key nobody owns
// costs one transaction, which goes through raft; a read of a key that is
// known to be somebody else's costs one plain read. A put of a key that nobody
// else owns is one transaction. A put of a key that somebody else owns takes
// three: one that is refused and revokes, the owner's yield, and the write.
// A deletion of such a key takes one more: its first transaction holds no put,
// so that etcd takes deletions while it is out of space.
// Deletions of ranges list the claims of the range first.
//
// A key that was asked for rests before it is claimed again, longer each time
// that owning it did not pay. So readers do not hold up a writer, and a key
// that everybody writes is soon left to etcd.
//
// # Faults
//
// A KV that is cut off from etcd goes on serving what it owns until shortly
// before its leases can expire, and not past that; from then on reads go to
// etcd and fail there as they would for a plain client. Others who want to
// write its keys wait until its leases have expired, at most the TTL. It heals
// by itself when etcd is back.
//
// A KV that may not watch or write the claim prefix claims nothing: reads go
// to etcd, writes are refused with etcd's permission error. What is owned was
// read with the rights of that time; withdrawn rights do not take it away. Of a
// transaction that is answered from memory, rights on the branch that is not
// taken are not checked.
//
// # Limits
//
// Keys under the claim prefix are claims. Single writes of them give
// [ErrClaimPrefix], deletions of ranges leave them alone. Transactions need
// room for their guards within etcd's limit of operations: up to 127
// operations fit without comparisons. With comparisons, about 60 keys to be
// written fit with a guard for each; more are covered by one common guard, up
// to 127 at each level. What then still does not fit gives [ErrTxnTooLarge].
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
//   - revoke: ask an owner to give a key back
//   - yield: give a key back: forget it first, then delete the claim
//   - rest: the pause before a yielded key may be claimed again
//   - epoch: one life of the session; a new one owns nothing
//   - settle: report the outcome of a write: applied, refused or unknown
package leasing
