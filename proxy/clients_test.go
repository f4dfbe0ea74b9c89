package proxy

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// Code of etcd's logs its errors, and the rest only if everything is logged.
func TestQuiet(t *testing.T) {
	for level, want := range map[zapcore.Level]int{zap.DebugLevel: 2, zap.InfoLevel: 1, zap.ErrorLevel: 1, zap.FatalLevel: 0} {
		core, logs := observer.New(level)
		log := quiet(zap.New(core))
		log.Warn("an attempt failed")
		log.Error("all failed")
		if logs.Len() != want {
			t.Errorf("%v: %d messages", level, logs.Len())
		}
	}
	if quiet(zap.NewNop()).Core().Enabled(zap.ErrorLevel) {
		t.Error("a logger that logs nothing does")
	}
}
