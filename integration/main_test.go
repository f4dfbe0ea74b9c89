package integration_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if any goroutine is left: of a KV, a client or a member. In a
// process that a test started to own keys it does that instead.
func TestMain(m *testing.M) {
	if orders, ok := os.LookupEnv(fltOwnerEnv); ok {
		os.Exit(fltObey(orders))
	}
	goleak.VerifyTestMain(m)
}
