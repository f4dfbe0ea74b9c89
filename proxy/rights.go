package proxy

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// leave is whether a caller may be answered from memory, as far as etcd has said.
type leave interface {
	// good reports whether it may be at now.
	good(now time.Time) bool
	// judged is told what etcd said to a request of the caller that was sent after
	// begin, and that etcd answers on a quorum.
	judged(begin time.Time, err error)
}

// never is the leave to nothing.
type never struct{}

func (never) good(time.Time) bool     { return false }
func (never) judged(time.Time, error) {}

// within reports whether now is less than bound after begin, by both clocks: the
// monotonic one stands still while a machine sleeps, and the other may be set.
func within(begin, now time.Time, bound time.Duration) bool {
	return now.Sub(begin) < bound && now.Round(0).Sub(begin.Round(0)) < bound
}

// maxRights is how many rights are remembered; the oldest are forgotten.
const maxRights = 1 << 16

// rights remembers which token may read which key: etcd itself has read the key
// under the token. It holds no tokens, and no keys, but hashes of both under a key of
// this process.
type rights struct {
	bound  time.Duration
	secret [32]byte
	read   *lru.Cache[[32]byte, time.Time] // before the latest such read was sent
}

func newRights(bound time.Duration) *rights {
	read, err := lru.New[[32]byte, time.Time](maxRights)
	if err != nil {
		panic("proxy: " + err.Error())
	}
	r := &rights{bound: bound, read: read}
	rand.Read(r.secret[:])
	return r
}

// to is the leave of a token to read a key.
func (r *rights) to(token string, key []byte) leave {
	b := make([]byte, 0, 256)
	b = append(b, r.secret[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(token)))
	b = append(append(b, token...), key...)
	return right{r, sha256.Sum256(b)}
}

// right is the leave of one token to read one key.
type right struct {
	*rights
	id [32]byte
}

func (r right) good(now time.Time) bool {
	begin, ok := r.read.Get(r.id)
	return ok && within(begin, now, r.bound)
}

func (r right) judged(begin time.Time, err error) {
	if err != nil {
		r.read.Remove(r.id)
		return
	}
	r.read.Add(r.id, begin)
}
