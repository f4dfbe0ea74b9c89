package ballast

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestHoldPutsTheCollectorOff(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100)) // as is usual
	held := Hold([]string{"HOME=/", "GOGC="})
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if free := m.NextGC - m.HeapAlloc; free < Size {
		t.Errorf("the collector runs after %d bytes, want %d at least", free, Size)
	}
	runtime.KeepAlive(held)
}

func TestHoldLeavesItToTheEnvironment(t *testing.T) {
	for _, e := range []string{"GOGC=100", "GOGC=off", "GOMEMLIMIT=50MiB"} {
		if Hold([]string{"HOME=/", e}) != nil {
			t.Errorf("with %s memory is held", e)
		}
	}
}
