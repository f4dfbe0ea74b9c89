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
	"time"

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
	flag.IntVar(&b.rounds, "rounds", 24, "how often each has its turn; a multiple of 4 is fair")
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
	if err := b.measure(ctx, ways, s, t); err != nil {
		return err
	}
	t.print(os.Stdout)
	if b.out == "" {
		return nil
	}
	return t.write(b.out, b.rounds)
}

// orders are those in which the ways take their turns: each comes as often at each place,
// and as often behind each other way, so that what the machine is busy with, and what the
// one before has left to be done, fall on all of them.
var orders = [][waysThereAre]int{
	{direct, theirs, floor, ours},
	{theirs, ours, direct, floor},
	{ours, floor, theirs, direct},
	{floor, direct, ours, theirs},
}

// measure has the ways take turns.
func (b *bench) measure(ctx context.Context, ways []way, s sizes, t *table) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	var all []*contender
	for _, w := range ways {
		c, err := newContender(ctx, w, s)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		defer c.close()
		all = append(all, c)
	}
	for _, turn := range turns() {
		for round := range b.rounds {
			for _, at := range orders[round%len(orders)] {
				err := turn(ctx, all[at], s, round, func(row string, figure float64) { t.add(row, at, figure) })
				if err != nil {
					return fmt.Errorf("%s: %w", all[at].name, err)
				}
			}
		}
	}
	return nil
}
