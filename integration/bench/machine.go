package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// about says what the figures were measured with, one line each. It names
// neither the machine nor a folder of it.
func about(rounds int) []string {
	lines := []string{
		fmt.Sprintf("made by `%s` on %s; %d rounds, unless a row says otherwise", command(), time.Now().Format(time.DateOnly), rounds),
		machine(),
		fmt.Sprintf("%s, %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH),
	}
	return append(lines, contender.Versions("one member, one process for each contender and experiment")...)
}

// command returns how this was called, without the folders.
func command() string {
	var args []string
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "o", "plots", "dir":
		default:
			args = append(args, fmt.Sprintf("-%s=%s", f.Name, f.Value))
		}
	})
	if len(args) == 0 {
		return "make bench"
	}
	return "go -C integration/bench run . " + strings.Join(args, " ")
}

func machine() string {
	text := fmt.Sprintf("%d cores", runtime.NumCPU())
	if model := lineOf("/proc/cpuinfo", "model name"); model != "" {
		text += ", " + model
	}
	if kb, err := strconv.ParseFloat(strings.TrimSuffix(lineOf("/proc/meminfo", "MemTotal"), " kB"), 64); err == nil {
		text += fmt.Sprintf(", %.0f GB of memory", kb*1024/1e9)
	}
	return text
}

// lineOf returns what a file of the system says of something, if it does.
func lineOf(path, what string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == what {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
