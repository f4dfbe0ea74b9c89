package proxy

import (
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// namespace is what is put before clients' keys, for those services that package
// clientv3/namespace has nothing for.
type namespace string

// interval returns where in etcd the keys from key to end are; end is as in etcd's
// requests.
func (n namespace) interval(key, end []byte) (from, to []byte) {
	if n == "" {
		return key, end
	}
	from = n.key(key)
	switch {
	case len(end) == 1 && end[0] == 0:
		to = []byte(clientv3.GetPrefixRangeEnd(string(n)))
	case len(end) > 0:
		to = n.key(end)
	}
	return from, to
}

// key returns where in etcd a key is.
func (n namespace) key(key []byte) []byte { return append([]byte(n), key...) }

// strip returns what clients call a key of etcd's, which is in the namespace.
func (n namespace) strip(key []byte) []byte { return key[len(n):] }

// holds reports whether a key of etcd's is in the namespace.
func (n namespace) holds(key []byte) bool { return strings.HasPrefix(string(key), string(n)) }
