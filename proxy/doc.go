// Package proxy is a gRPC proxy before etcd for clients in any language: it serves
// etcd's API, and answers linearizable reads of single keys from memory. The program is
// cmd/leasing-proxy.
//
//	go run -C proxy ./cmd/leasing-proxy --embedded /tmp/try
//	etcdctl --endpoints 127.0.0.1:23790 put greeting hello
//
//	go -C proxy build -o /usr/local/bin/leasing-proxy ./cmd/leasing-proxy
//
// Behind it is one KV of package leasing for all clients, so its guarantees, its
// assumptions and its costs are those of that package. The most important: everybody who
// writes the data does so through such a proxy, or through a KV, with the same claim
// prefix. Put a proxy where its clients are, on the same host or in the same pod: what is
// read from memory costs the way to the proxy instead of the way to etcd.
//
// If a proxy is killed or cut off, writers of its keys wait for as long as the TTL of its
// leases, 60 s by default, which is longer than most clients' timeouts: choose a shorter
// one (--ttl), or have clients try again. It hands its keys over when it is told to stop.
//
// # Services
//
//   - KV: the leasing KV. RangeStream is etcd's, and reads of ranges, of the past and of
//     keys with a lease go to etcd, too.
//   - Watch, Lease: etcd's. Each stream of a client is a stream to etcd.
//   - Lock, Election: etcd's own code, run here on the KV, so that the keys it writes are
//     in the namespace and keep to the protocol. The key of a caller who leaves the queue
//     is deleted under the caller's token, within 5 s, or stays until its lease is over.
//   - Cluster, Maintenance, Auth: etcd's, passed on as etcd's own proxy does.
//   - grpc.health.v1: whether the proxy serves.
//
// etcd's HTTP gateway is not there. Replies are those of etcd, but for this: a reply from
// memory names the member that the proxy last heard from, revisions grow by claims as
// well as by writes, and writes of keys under the claim prefix are refused.
//
// # Key spaces
//
// The claim of a key is the key prefix+key in etcd, with key as it is in etcd: with the
// namespace app/ and the prefix leasing/, what clients call k is app/k, and its claim is
// leasing/app/k. So clients of a namespace do not see claims, neither in ranges nor in
// watches; without a namespace they see them, in ranges that cover the prefix. Proxies with
// the same prefix share their claims, whatever their namespaces are.
//
// An embedded KV shares them as well if it has the same prefix and uses the names in etcd:
// New(ctx, cl, Config{Prefix: "leasing/"}) on a client without namespace. To use the names
// of the namespace, wrap the KV, not the client: namespace.NewKV(kv, "app/").
//
// etcd's own proxy puts claims into its namespace instead (app/leasing/k), where clients
// see them. It shares claims with this one only if neither has a namespace.
//
// A namespace keeps clients apart that mean well. It is no border: leases, users, members
// and snapshots are those of all of etcd.
//
// # Rights
//
// A request for etcd bears the token of the client that it is for, or none. The proxy's own
// credentials (Config.Username) are for its session alone: claims, yields, renewals and
// the watch on the claims. So etcd judges every request that it gets, and gives its own
// errors. What it does not get, reads from memory, is allowed as follows.
//
// With a token: only a read of a single key, and only if etcd has answered a linearizable
// read of that key under that token, which was sent less than Config.AuthBound ago. That
// read is the confirmation, and costs nothing more. The clock is looked at when the value
// has been taken from memory: the read happens at an instant before that, when the key was
// owned and its lease live, and the right was there at an instant less than the bound
// before. A right that was withdrawn at some time is therefore without effect for every read
// that begins the bound after it, or later; and at once when etcd refuses one, unless its
// answer to an earlier one is still on its way. Ranges, transactions and writes with a token
// always go to etcd. Tokens are remembered as hashes under a key of the process.
//
// Without a token: everything that the KV can answer, if etcd has answered a linearizable
// read without credentials that was sent less than Config.AuthBound ago, which it does while
// authentication is off. That is asked again in the background: three reads in each bound,
// however many clients there are. If authentication is turned on, they are refused within
// the bound; if etcd cannot be asked, requests are passed on to it within the bound, and fail
// there. The bound is thus also for how long owned keys are read while etcd is away, if that
// is shorter than the TTL of the leases.
//
// With a bound of 0 nothing is answered from memory, to anybody.
//
// So the first read of a key with a token goes to etcd, and claims nothing; from the second
// on, the key may be claimed, and read from memory until the bound is over and etcd is asked
// again. Clients that log in for each call, as etcdctl with --user does, have a new token
// each time, and gain nothing.
//
// With authentication on, who is to do what takes these rights, here for data under d/:
//
//	etcdctl role grant-permission writer readwrite d/ --prefix        # writing takes reading, too
//	etcdctl role grant-permission writer readwrite leasing/d/ --prefix
//	etcdctl role grant-permission reader read d/ --prefix
//	etcdctl role grant-permission proxy read d/ --prefix              # the role of the proxy's user
//	etcdctl role grant-permission proxy readwrite leasing/ --prefix
//
// A deletion of a range takes the right to read the claims of the whole range (of
// everything between them, if a transaction deletes several), and to write those of the
// keys that somebody owns: the writer above may delete d/ and ranges within, but not across
// its ends. What the proxy's user may not read is read from etcd. Without a user the proxy
// owns nothing there, and the log says so.
//
// A certificate that the proxy shows etcd must have no common name, as with etcd's proxy,
// and is refused if it has one: etcd takes the name for a user where it asks for
// certificates, and would serve clients without a token as that user. The names in
// certificates that clients show the proxy mean nothing to etcd.
//
// # Weaknesses
//
//   - Clients that ask for the members of the cluster, and then talk to those, write keys
//     without the protocol. Set Config.AdvertiseClientURL if there are any.
//   - Watches are not merged: ten watches of one key here are ten in etcd.
//   - Status, Hash, Defragment, Snapshot and the like are answered by whichever member is
//     next. Ask the members themselves.
//   - If authentication is turned on under a proxy that has no user, it cannot give its keys
//     back any more: others wait for them until its leases are over, for the TTL.
//   - Requests of more than 16 MiB are refused, whatever etcd's limits are, as are headers of
//     more than 64 KiB, tokens of more than 16 KiB, and transactions of more operations than
//     the square of Leasing.MaxTxnOps, nested ones among them.
//   - Who may read keys has them claimed, whether they are there or not, and each claim is
//     written in etcd: see Leasing.ClaimAfter, MaxKeys and MaxBytes, and have etcd compact its
//     history. Keys of more than 4 KiB are read from etcd, and never claimed.
//   - Compact compacts all of etcd, whatever the namespace is.
//   - With authentication off, every client can list the leases and revoke those of the
//     proxy. That ends reads from memory, and before the proxy has noticed, for the delay of a
//     watch, others may write what it still serves.
//   - etcd prolongs its simple tokens when they are used. Choose a bound that is shorter
//     than its --auth-token-ttl, or tokens that are used here alone run out.
//   - Who may write the claims can ask for every key, and so hold up others, by writing
//     there or by deletions of ranges, which etcd refuses only after the owners were asked.
//     For a client without that right no owner is asked before etcd has judged its write.
//     Until then the keys that the write names are read from etcd, so whoever sends such
//     writes without end slows the readers down.
//   - All clients share a connection to etcd. If etcd limits the streams of a connection
//     (--max-concurrent-streams, by default it does not), the limit is for all of them
//     together: one that keeps as many watches open leaves nothing to the others.
//   - What an observer of an election does not read is kept for it in memory, without bound,
//     as etcd does.
//   - Handler asks nobody who they are: keep --metrics-addr on loopback, or where only those
//     can reach it who may know the names of keys. /health and /readyz are 503 while etcd is
//     away. A proxy that is then ended, by a liveness probe say, no longer reads from memory
//     what it owned, and cannot begin until etcd is back: use them for readiness only.
package proxy
