package etcdtest

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// Option changes what kind of cluster is started.
type Option func(*options)

type options struct {
	members             int
	heartbeat, election time.Duration
	quota               int64
	fsync               bool
	tls                 bool
	auth                bool
	users               []User
	embed               []func(*embed.Config)
}

func gather(opts []Option) options {
	o := options{
		members:   1,
		heartbeat: 100 * time.Millisecond,
		election:  time.Second,
	}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// Members makes a cluster of n members; it is one without this option.
func Members(n int) Option { return func(o *options) { o.members = n } }

// Ticks sets the heartbeat interval and the election timeout, which must be at
// least five times as long. They are etcd's defaults without this option, 100 ms
// and 1 s. etcd grants no lease that is shorter than one and a half election
// timeouts, rounded up to whole seconds: 2 s by default.
func Ticks(heartbeat, election time.Duration) Option {
	return func(o *options) { o.heartbeat, o.election = heartbeat, election }
}

// QuickTicks is Ticks with 20 ms and 200 ms: quick elections and leases of 1 s,
// while a machine with two cores still keeps up.
func QuickTicks() Option { return Ticks(20*time.Millisecond, 200*time.Millisecond) }

// Quota limits the database of each member to so many bytes; a database that
// is full raises the NOSPACE alarm. See also [Cluster.SetNoSpace].
func Quota(bytes int64) Option { return func(o *options) { o.quota = bytes } }

// Fsync makes members write to disk for good before they answer. Tests are
// quicker without, and lose nothing as long as the process goes on.
func Fsync() Option { return func(o *options) { o.fsync = true } }

// TLS makes clients and members show each other certificates, which are made
// for this cluster. The clients of the cluster have one. What members say to
// each other is not encrypted.
func TLS() Option { return func(o *options) { o.tls = true } }

// Auth turns authentication on, with users in addition to root, who may do
// everything. Clients of the cluster are root unless they say [As].
func Auth(users ...User) Option {
	return func(o *options) { o.auth, o.users = true, append(o.users, users...) }
}

// User is a user for [Auth]. A role with the same name holds its rights.
type User struct {
	Name, Password string
	Rights         []Right
}

// Right is a permission on the keys from Key to End, which is used as in
// clientv3.WithRange: if it is empty, it is on Key alone.
type Right struct {
	Key, End string
	Type     clientv3.PermissionType
}

// May is the right of type t to all keys with the prefix.
func May(t clientv3.PermissionType, prefix string) Right {
	return Right{Key: prefix, End: clientv3.GetPrefixRangeEnd(prefix), Type: t}
}

// Embed changes the configuration of every member in ways that no other option
// knows, such as MaxTxnOps. It is called at each start of a member.
func Embed(change func(*embed.Config)) Option {
	return func(o *options) { o.embed = append(o.embed, change) }
}
