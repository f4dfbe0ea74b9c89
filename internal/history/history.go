// Package history checks that what the clients of an etcd saw is linearizable.
//
// etcd numbers its writes, so the order in which they took effect is known: it
// is that of their revisions, as a watch from the first one on tells it. What
// is left to decide is whether every operation can be given an instant between
// its call and its return that agrees with that order. That is for porcupine.
package history

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Key is what is known of one key.
type Key struct {
	Name   string
	Events []*clientv3.Event // all there are since the first revision
	Writes []Write
	Reads  []Read
}

// Read is a read of a key that was answered, or a comparison.
type Read struct {
	Client    string
	Call, Ret int64            // when it began and ended, on one clock; Call is another for each operation
	KV        *mvccpb.KeyValue // what it returned; nil if there was no such key
	Header    int64            // the revision in the header of the reply
	AsOf      bool             // the reply claims to be as of that revision: nothing was written with the read

	// Since, if not zero, is before Call: it may read what was true then, under a
	// header that is newer.
	Since int64
	// Holds, if not nil, is all that is known of what was read.
	Holds func(*mvccpb.KeyValue) bool
}

// Write is a write of a key. Value must be unique. Deletions that etcd did not
// acknowledge can be told from others by Rev alone.
type Write struct {
	Client    string
	Call, Ret int64
	Delete    bool
	Value     string
	Err       error // not nil: it may have been applied or not, at any time
	Rev       int64 // the revision in the header of the reply, or at which it is known to be applied
	Changed   bool  // for a Delete that was acknowledged: it found something
}

// Violation is a history that is not linearizable.
type Violation struct {
	why   error
	model porcupine.Model
	ops   []porcupine.Operation
}

var errIllegal = errors.New("there is no order")

func (v *Violation) Error() string { return "the history is not linearizable: " + v.why.Error() }

// Picture writes the history as an HTML page, with the longest parts of it that
// porcupine finds to be linearizable. It can take a minute.
func (v *Violation) Picture(w io.Writer) error {
	_, info := porcupine.CheckOperationsVerbose(v.model, v.ops, limit)
	return porcupine.Visualize(v.model, info, w)
}

// ErrUnknown means that the check was given up: whether the history is
// linearizable is not known.
var ErrUnknown = errors.New("history: the check takes too long")

// limit is how long porcupine may take.
const limit = time.Minute

// Check checks the operations on some keys together. What was read and written
// with one Call is one operation and must have been at one instant, so keys that
// are linearizable one by one may not be so together. It returns nil if there
// is a linearization, and else what is wrong: a *Violation, or what is plainly
// wrong with one operation.
func Check(keys ...Key) error {
	h := newHistory()
	for _, k := range keys {
		if err := h.write(k); err != nil {
			return fmt.Errorf("key %q: %w", k.Name, err)
		}
	}
	for i, k := range keys {
		if err := h.read(i, k.Reads); err != nil {
			return fmt.Errorf("key %q: %w", k.Name, err)
		}
	}
	if err := h.check(partSize); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(h.names, ", "), err)
	}
	return nil
}
