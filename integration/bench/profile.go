package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/pprof"
)

// wordy is what is not put into the name of a file.
var wordy = regexp.MustCompile(`[^a-z0-9]+`)

// profile writes CPU profiles of both processes, the server's and this one, if
// that was asked for, from now until the function it returns is called.
func (e *env) profile() (stop func()) {
	if e.profiles == "" {
		return func() {}
	}
	e.profiled++
	name := filepath.Join(e.profiles, fmt.Sprintf("%s-%s-%d-%d", wordy.ReplaceAllString(e.row, "-"),
		wordy.ReplaceAllString(subjectName(e.subject), "-"), e.round, e.profiled))
	f, err := os.Create(name + "-client.pprof")
	e.must(err)
	e.must(pprof.StartCPUProfile(f))
	if e.server != nil {
		e.server.tell(name + "-server.pprof")
	}
	return func() {
		if e.server != nil {
			e.server.tell("")
		}
		pprof.StopCPUProfile()
		_ = f.Close()
	}
}

// obey is what a server does with what it is told: it writes a CPU profile to
// each file that is named, up to the next line.
func obey(in io.Reader) error {
	var f *os.File
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if f != nil {
			pprof.StopCPUProfile()
			_ = f.Close()
			f = nil
		}
		if lines.Text() == "" {
			continue
		}
		var err error
		if f, err = os.Create(lines.Text()); err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
	}
	return lines.Err()
}

// tell gives the server a line to obey.
func (s *server) tell(line string) { _, _ = fmt.Fprintln(s.stdin, line) }
