// Bench measures etcd's API through this proxy, beside etcd's own leasing proxy and a
// direct connection: the same clients, one etcd, in turn.
//
//	go run ./bench -o ../docs/proxy.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/etcd-leasing/leasing/proxy/internal/ballast"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "as" {
		if err := become(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	var b bench
	flag.StringVar(&b.out, "o", "", "write the table as Markdown to this `file`")
	flag.IntVar(&b.rounds, "rounds", 5, "how often each has its turn")
	flag.BoolVar(&b.short, "short", false, "small sizes, to see that it works: the figures mean nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is what is asked for.
type bench struct {
	out    string
	rounds int
	short  bool
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.rounds < 1 || flag.NArg() > 0 {
		return errors.New("nothing is to be measured: -h shows the flags")
	}
	s := fullSizes()
	if b.short {
		s = shortSizes()
	}
	held := ballast.Hold(os.Environ()) // that the clients take no time from the servers to collect garbage
	defer runtime.KeepAlive(held)
	ways, stop, err := startAll(ctx)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return err
	}
	t := newTable()
	for round := range b.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, b.rounds)
		for i, w := range ways {
			if err := measure(ctx, w, s, round, func(row string, figure float64) { t.add(row, i, figure) }); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	t.print(os.Stdout)
	if b.out == "" {
		return nil
	}
	return t.write(b.out, b.rounds)
}
