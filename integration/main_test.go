package integration_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if any goroutine is left: of a KV, a client or a member.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
