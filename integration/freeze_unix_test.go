//go:build unix

package integration_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// fltCanFreeze is whether processes can be frozen here.
const fltCanFreeze = true

// fltMapClock returns a clock that all processes share who map the file.
func fltMapClock(file string) (*atomic.Int64, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size := os.Getpagesize()
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	// It stays mapped as long as the process lives.
	page, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*atomic.Int64)(unsafe.Pointer(&page[0])), nil
}

// fltApart puts a process into a group of its own: should this process end
// while that one is frozen, the system wakes it and hangs it up.
func fltApart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// fltFreeze stops a child process, and returns when it stands still.
func fltFreeze(p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		switch _, err := syscall.Wait4(p.Pid, &status, syscall.WUNTRACED, nil); {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case !status.Stopped():
			return fmt.Errorf("it has ended: %v", status)
		default:
			return nil
		}
	}
}

func fltThaw(p *os.Process) error { return p.Signal(syscall.SIGCONT) }
