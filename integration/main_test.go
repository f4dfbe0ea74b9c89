package integration_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain fails if any goroutine is left: of a KV, a client or a member. In a
// process that a test started to own keys it does that instead.
func TestMain(m *testing.M) {
	if orders, ok := os.LookupEnv(fltOwnerEnv); ok {
		os.Exit(fltObey(orders))
	}
	code := m.Run()
	if err := leaks(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// leaks returns an error if goroutines are left. When a member ends while it
// talks to another, etcd leaves their connection to its read timeout of 5 s.
func leaks() (err error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if err = goleak.Find(); err == nil {
			break
		}
	}
	return err
}
