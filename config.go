package leasing

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Config configures a KV. The zero value of each field but Prefix is a good
// choice for most.
type Config struct {
	// Prefix is where in etcd the claims are kept: the claim of key k is the
	// key Prefix+k. Every client that writes the same data must use the same
	// prefix, and no data may be under it: data there is taken for claims of
	// others, and holds up writes. It must not be empty.
	Prefix string

	// TTL is the time to live of the leases that the claims hang on: for so
	// long a write may have to wait if the owner of its key is cut off from
	// etcd, and nearly so long the owner serves reads then. It is rounded up
	// to whole seconds; 0 means 60 s, and less than 1 s or more than a year is
	// refused. etcd may grant more than asked for.
	TTL time.Duration

	// MaxTxnOps is the servers' --max-txn-ops, at least 8; 0 means 128, etcd's
	// default. If it is set higher than theirs, etcd refuses transactions that
	// would fit.
	MaxTxnOps int

	// MaxKeys is how many keys are owned at most; 0 means 100,000. When there are
	// more, those that are read least are given back, and may be claimed again by
	// the next read: with more keys in use than that, every read may become a
	// write in etcd. A key takes memory here, and a claim in etcd until that has
	// been deleted, so there are some more of these for a moment.
	MaxKeys int

	// MaxBytes is how much memory the keys that are owned may take here, at most: the
	// keys, their values, and 260 bytes for each, which hold a key of up to 24 bytes and
	// a value of up to 32; 0 means no bound but MaxKeys, which holds in any case, and
	// less than 260 is refused. When they take more, keys are given back as with MaxKeys.
	// A key that takes more by itself is read from etcd: it goes to those who read it,
	// and is not kept. The estimate leaves out what is remembered of keys that are not
	// owned, at most 65,536: their names and 290 bytes for each.
	MaxBytes int64

	// IdleTimeout is how long a key stays owned without being read from memory; 0
	// means for ever, and less than 1 s is refused. It is given back between 1 and
	// 1.5 times that after its last read, in batches, in the background; later if
	// etcd takes long to answer the KV's own requests, and not while it is being
	// written. The next read claims it again. What is owned and not read costs
	// others who write it three transactions instead of one.
	IdleTimeout time.Duration

	// ClaimAfter is how many reads of a key it takes to claim it, so that a scan of keys
	// that are read once does not write a claim for each: the reads before that go to
	// etcd. 0 and 1 mean that the first read claims. What counts are the reads by this
	// KV that could have claimed the key, each for longer than 10 s and for 20 s at
	// most. If more than 65,536 keys are read within 10 s, their oldest reads are
	// forgotten sooner. Counting takes up to 5 MB. Prefetch does not wait for reads.
	ClaimAfter int

	// WatchData are prefixes of data that is watched for writes by programs that do
	// not use the protocol: etcdctl, say, or an old service. A key that such a
	// stranger has written is given up, and the log, Stats and OnEvent tell of it. So
	// reads from memory are old for the delay of a watch, instead of for as long as
	// the key is owned; they are still not linearizable for such writes, and
	// strangers' writes are not noticed while the watch is interrupted, nor one after which
	// this KV writes the key itself before the watch tells. Every write under the prefixes
	// is sent to this KV. The empty prefix means all keys. One under the claim prefix is
	// refused, as there is no data. It takes the right to read them.
	WatchData []string

	// OnEvent is told of what happens to the session and to keys; nil means that
	// nobody is. It is called by one goroutine, one event after the other, and may
	// take its time: up to 4,096 events wait for it, and some of the session besides;
	// more are lost, which Stats.EventsLost tells. Of a key that is given up it is told
	// when reads are not answered from memory any more. It must not call Close. Close does
	// not wait for it for longer than for anything else.
	OnEvent func(Event)

	// Logger gets what the session has to say; nil means the client's logger.
	Logger *zap.Logger

	perLease int // the most claims on one lease, in tests; 0 is the default
}

const (
	defaultTTL       = 60 * time.Second
	maxTTL           = 365 * 24 * time.Hour // far from what clocks count in nanoseconds
	defaultMaxTxnOps = 128
	defaultMaxKeys   = 100_000
)

// validate returns the configuration with its defaults.
func (cfg Config) validate() (Config, error) {
	switch {
	case cfg.Prefix == "":
		return cfg, errors.New("leasing: Config.Prefix is empty: name a prefix that holds no data, such as \"leasing/\"")
	case cfg.TTL < 0 || cfg.TTL > 0 && cfg.TTL < time.Second:
		return cfg, fmt.Errorf("leasing: Config.TTL is %v: it must be at least 1s, or 0 for %v", cfg.TTL, defaultTTL)
	case cfg.TTL > maxTTL:
		return cfg, fmt.Errorf("leasing: Config.TTL is %v: it must be at most a year: a writer waits for so long if an owner is gone", cfg.TTL)
	case cfg.MaxTxnOps < 0 || cfg.MaxTxnOps > 0 && cfg.MaxTxnOps < 8:
		return cfg, fmt.Errorf("leasing: Config.MaxTxnOps is %d: it must be at least 8, or 0 for %d", cfg.MaxTxnOps, defaultMaxTxnOps)
	case cfg.MaxKeys < 0:
		return cfg, fmt.Errorf("leasing: Config.MaxKeys is %d: it must be at least 1, or 0 for %d", cfg.MaxKeys, defaultMaxKeys)
	case cfg.ClaimAfter < 0:
		return cfg, fmt.Errorf("leasing: Config.ClaimAfter is %d: it must be at least 1, or 0 for the first read", cfg.ClaimAfter)
	case cfg.MaxBytes < 0 || cfg.MaxBytes > 0 && cfg.MaxBytes < keyOverhead:
		return cfg, fmt.Errorf("leasing: Config.MaxBytes is %d: it must be at least %d, for one key, or 0 for no bound", cfg.MaxBytes, keyOverhead)
	case cfg.IdleTimeout < 0 || cfg.IdleTimeout > 0 && cfg.IdleTimeout < time.Second:
		return cfg, fmt.Errorf("leasing: Config.IdleTimeout is %v: it must be at least 1s, or 0 for none", cfg.IdleTimeout)
	}
	for _, prefix := range cfg.WatchData {
		if strings.HasPrefix(prefix, cfg.Prefix) {
			return cfg, fmt.Errorf("leasing: Config.WatchData has %q, which is under the claim prefix %q, where there is no data", prefix, cfg.Prefix)
		}
	}
	cfg.WatchData = outermost(cfg.WatchData)
	cfg.TTL = cmp.Or(cfg.TTL, defaultTTL)
	cfg.MaxTxnOps = cmp.Or(cfg.MaxTxnOps, defaultMaxTxnOps)
	cfg.MaxKeys = cmp.Or(cfg.MaxKeys, defaultMaxKeys)
	return cfg, nil
}

// outermost returns the prefixes that no other one covers, each once.
func outermost(prefixes []string) (out []string) {
	for _, p := range slices.Sorted(slices.Values(prefixes)) { // behind those that cover it
		if n := len(out); n == 0 || !strings.HasPrefix(p, out[n-1]) {
			out = append(out, p)
		}
	}
	return out
}
