// Leasing-proxy serves etcd's gRPC API, and answers reads of the keys that it owns
// from memory. See package proxy, and leasing-proxy --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	buildinfo "runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/client/pkg/v3/logutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/etcd-leasing/leasing/debug"
	"github.com/etcd-leasing/leasing/proxy"
	"github.com/etcd-leasing/leasing/proxy/internal/ballast"
)

// Exit codes.
const (
	exitOK = iota
	exitFailure
	exitUsage
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the program without its process. It ends with ctx.
func run(ctx context.Context, args, environ []string, out, errs io.Writer) int {
	s := newSettings(out)
	switch err := s.parse(args, environ); {
	case errors.Is(err, pflag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(errs, "leasing-proxy: %v\nTry leasing-proxy --help.\n", err)
		return exitUsage
	case s.version:
		fmt.Fprintln(out, versions())
		return exitOK
	}
	held := ballast.Hold(environ)
	defer runtime.KeepAlive(held)
	level, _ := zapcore.ParseLevel(s.level) // which has been checked
	log, err := logutil.CreateDefaultZapLogger(level)
	if err == nil {
		defer log.Sync()
		for _, name := range s.unknown {
			log.Warn("an environment variable stands for no flag", zap.String("name", name))
		}
		err = serve(ctx, s, log)
	}
	if err != nil {
		fmt.Fprintf(errs, "leasing-proxy: %v\n", err)
		return exitFailure
	}
	log.Info("stopped")
	return exitOK
}

// serve runs the proxy until ctx ends.
func serve(ctx context.Context, s *settings, log *zap.Logger) error {
	l, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("--listen-addr: %w", err)
	}
	defer l.Close()
	var pages net.Listener
	if s.metrics != "" {
		if pages, err = net.Listen("tcp", s.metrics); err != nil {
			return fmt.Errorf("--metrics-addr: %w", err)
		}
		defer pages.Close()
	}
	if s.embedded != "" {
		etcd, err := proxy.StartEmbedded(ctx, s.embedded, s.embeddedAddr(), log)
		if err != nil {
			return fmt.Errorf("--embedded: %w", err)
		}
		defer etcd.Close()
		s.endpoints = []string{etcd.URL()}
		log.Info("an etcd runs within the proxy", zap.String("url", etcd.URL()), zap.String("dir", s.embedded))
	}
	p, err := proxy.New(ctx, s.config(log))
	if err != nil {
		if ctx.Err() != nil {
			return nil // it was told to stop before it had begun
		}
		return err
	}
	failed := make(chan error, 2)
	if pages != nil {
		defer serveHTTP(p, pages, failed)() // last, so that /readyz can tell that the proxy stops
		log.Info("serving metrics", zap.Stringer("address", pages.Addr()))
		if tcp, ok := pages.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
			log.Warn("other hosts can read metrics, and names of keys: have --metrics-addr on loopback, or let nobody else reach it")
		}
	}
	defer p.Stop(s.stop)
	go func() { failed <- p.Serve(l) }()
	select {
	case err = <-failed:
		return err
	case <-ctx.Done():
		log.Info("stopping: handing over all keys", zap.Duration("bound", s.stop))
		return nil
	}
}

// serveHTTP serves what is not for etcd's clients. The function that it returns ends
// that.
func serveHTTP(p *proxy.Server, l net.Listener, failed chan<- error) (end func()) {
	page := debug.New(p.KV())
	web := &http.Server{Handler: p.Handler(map[string]http.Handler{"/debug/leasing": page}), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}()
	return func() { web.Close(); page.Close() }
}

// embeddedAddr is where the embedded etcd is to listen; empty means anywhere.
func (s *settings) embeddedAddr() string {
	if !s.flags.Changed("endpoints") {
		return ""
	}
	return strings.TrimPrefix(s.endpoints[0], "http://")
}

func versions() string {
	own := "unknown"
	if info, ok := buildinfo.ReadBuildInfo(); ok {
		own = info.Main.Version
	}
	return fmt.Sprintf("leasing-proxy: %s\netcd API: %s\nGo: %s %s/%s", own, version.APIVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
