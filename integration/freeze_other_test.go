//go:build !unix

package integration_test

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
)

// fltCanFreeze is whether processes can be frozen here.
const fltCanFreeze = false

var errNoFreeze = errors.New("this system has no SIGSTOP")

func fltMapClock(string) (*atomic.Int64, error) { return nil, errNoFreeze }
func fltApart() *syscall.SysProcAttr            { return nil }
func fltFreeze(*os.Process) error               { return errNoFreeze }
func fltThaw(*os.Process) error                 { return errNoFreeze }
