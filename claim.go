package leasing

import (
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// revokeValue is what a claim holds once somebody has asked for its key back.
// While it is merely held, a claim is empty.
const revokeValue = "REVOKE"

// layout is the wire format: how ownership is written down in etcd. It is the
// only place that knows it, and it is the format of etcd's own leasing package
// and leasing gRPC proxy, so that all of them can share one prefix.
//
// The claim of key k is the etcd key prefix+k. It is attached to a lease of
// its owner, and its create revision is the grant: the fencing token of this
// one ownership. The deletion of a claim means that the key was released.
type layout struct {
	prefix string
	end    string // the first key behind the prefix; "\x00" if there is none
}

func newLayout(prefix string) layout {
	return layout{prefix: prefix, end: clientv3.GetPrefixRangeEnd(prefix)}
}

func (l layout) claimKey(key string) string { return l.prefix + key }

// reserved reports whether key is under the claim prefix, where there are
// claims and no data.
//
// Invariant: I13.
func (l layout) reserved(key string) bool { return strings.HasPrefix(key, l.prefix) }

// claimRange returns the range of the claims of exactly the keys in r. An open
// end ("\x00") ends with the claim prefix, not with prefix+"\x00".
func (l layout) claimRange(r keyRange) keyRange {
	if r.end == openEnd {
		return keyRange{l.claimKey(r.begin), l.end}
	}
	return keyRange{l.claimKey(r.begin), l.claimKey(r.end)}
}

// spare returns the parts of r that are not claims, in order: none, one or two.
//
// Invariant: I13. A range that covers the claim prefix leaves the claims alone.
func (l layout) spare(r keyRange) []keyRange {
	claims := keyRange{l.prefix, l.end}
	if !r.overlaps(claims) {
		return []keyRange{r}
	}
	var parts []keyRange
	if r.begin < claims.begin {
		parts = append(parts, keyRange{r.begin, claims.begin})
	}
	if claims.end != openEnd && (r.end == openEnd || claims.end < r.end) {
		parts = append(parts, keyRange{claims.end, r.end})
	}
	return parts
}

// claim claims key for lease, unless somebody has it or the key carries a
// lease of its own: such a key can vanish without anybody's consent. Either
// way it reads the key; if it is refused, it reads the claim in the way too.
func (l layout) claim(key string, lease clientv3.LeaseID) clause {
	return clause{
		cmps: []clientv3.Cmp{l.holds(key, 0), clientv3.Compare(clientv3.LeaseValue(key), "=", 0)},
		then: []clientv3.Op{clientv3.OpGet(key), clientv3.OpPut(l.claimKey(key), "", clientv3.WithLease(lease))},
		els:  []clientv3.Op{clientv3.OpGet(key), clientv3.OpGet(l.claimKey(key))},
	}
}

// beaconOp claims the empty key, which nobody can want, for lease: an event for
// the watch to tell.
func (l layout) beaconOp(lease clientv3.LeaseID) clientv3.Op {
	return clientv3.OpPut(l.claimKey(""), "", clientv3.WithLease(lease))
}

// revoke asks the owner that holds key under grant to give it back, once. If
// there is nothing to ask for (the claim is gone, is another one, or has been
// revoked already) it reads the claim instead. What holds anything else is not a
// claim, and is not written over.
func (l layout) revoke(key string, grant int64) clause {
	claim := l.claimKey(key)
	return clause{
		cmps: []clientv3.Cmp{l.holds(key, grant), clientv3.Compare(clientv3.Value(claim), "=", "")},
		then: []clientv3.Op{clientv3.OpPut(claim, revokeValue, clientv3.WithIgnoreLease())},
		els:  []clientv3.Op{clientv3.OpGet(claim)},
	}
}

// revokeAny is revoke for whoever holds key. The value of a claim that is not
// there equals nothing.
func (l layout) revokeAny(key string) clause {
	claim := l.claimKey(key)
	return clause{
		cmps: []clientv3.Cmp{clientv3.Compare(clientv3.Value(claim), "=", "")},
		then: []clientv3.Op{clientv3.OpPut(claim, revokeValue, clientv3.WithIgnoreLease())},
		els:  []clientv3.Op{clientv3.OpGet(claim)},
	}
}

// yield deletes the claim that y describes, and no other. If the reply that
// would have told its grant was lost, it only looks for the claim. Deleting
// whatever hangs on our lease would not do: sent again after a lost reply, the
// first of the two could arrive late, and hit a later claim of ours.
//
// Invariant: I5. The guard is an equality, so that no other claim is hit.
func (l layout) yield(y yield) clause {
	claim := l.claimKey(y.key)
	if y.grant == 0 {
		return clause{then: []clientv3.Op{clientv3.OpGet(claim)}}
	}
	return clause{cmps: []clientv3.Cmp{l.holds(y.key, y.grant)}, then: []clientv3.Op{clientv3.OpDelete(claim)}}
}

// holds is the guard that key is held under grant; 0 means by nobody.
//
// Invariant: I5.
func (l layout) holds(key string, grant int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(l.claimKey(key)), "=", grant)
}

// unclaimedSince is the guard that no key in r was claimed after revision rev.
// Together with a listing of the claims at rev it is as good as an equality: a
// claim that is there now and is not newer than rev was in the listing.
//
// Invariant: I5.
func (l layout) unclaimedSince(r keyRange, rev int64) clientv3.Cmp {
	c := l.claimRange(r)
	return clientv3.Compare(clientv3.CreateRevision(c.begin).WithRange(c.end), "<", rev+1)
}

// claimsSince lists the claims that unclaimedSince objects to.
func (l layout) claimsSince(r keyRange, rev int64) clientv3.Op {
	c := l.claimRange(r)
	return clientv3.OpGet(c.begin, clientv3.WithRange(c.end), clientv3.WithMinCreateRev(rev+1), clientv3.WithLimit(listPage))
}

// claimRecord is a claim as etcd reported it.
type claimRecord struct {
	key     string // the key it claims
	grant   int64
	lease   clientv3.LeaseID
	revoked bool
}

func (l layout) record(kv *mvccpb.KeyValue) claimRecord {
	return claimRecord{
		key:     string(kv.Key[len(l.prefix):]),
		grant:   kv.CreateRevision,
		lease:   clientv3.LeaseID(kv.Lease),
		revoked: string(kv.Value) == revokeValue,
	}
}
