# Everything here needs Go and make alone: no etcd, no Docker, nothing installed.
# The first run downloads modules and builds etcd, which takes minutes.

GO ?= go
FUZZTIME ?= 30s
DURATION ?= 20s
UPSTREAM ?= -count=5
SIM ?= -sim.for 2m

GOFMT = $(shell $(GO) env GOROOT)/bin/gofmt
MODULES = . metrics metrics/dashboard integration integration/bench integration/upstream proxy
STATICCHECK = $(CURDIR)/bin/staticcheck

# The race detector needs cgo, and so a C compiler.
RACE = $(if $(filter 1,$(shell $(GO) env CGO_ENABLED)),-race)

.PHONY: test lint unit sim integration proxy faults upstream demo scoreboard mutants bench bench-proxy fuzz clean race
.DEFAULT_GOAL = test

# What must pass before a commit. The output of go test comes last.
test: lint unit sim mutants integration upstream proxy

# Formatting, vet, staticcheck, and a go.mod and go.sum that are tidy.
lint: $(STATICCHECK)
	@bad=$$($(GOFMT) -l .); test -z "$$bad" || { echo "not formatted with gofmt:" $$bad; exit 1; }
	@for m in $(MODULES); do \
		echo "lint $$m"; \
		( cd $$m && $(GO) mod tidy -diff && $(GO) vet ./... && $(STATICCHECK) ./... ) || exit 1; \
	done

# The version of staticcheck is that of .ci/tools/go.mod.
$(STATICCHECK): .ci/tools/go.mod .ci/tools/go.sum
	$(GO) -C .ci/tools build -o $@ honnef.co/go/tools/cmd/staticcheck

# Tests that need no server.
unit: race
	$(GO) test $(RACE) ./...
	$(GO) -C metrics test $(RACE) ./...
	$(GO) -C metrics/dashboard test $(RACE) ./...

# The simulation for two minutes, without the race detector, which is ten times
# quicker. For so many seeds: make sim SEEDS=20000
sim:
	$(GO) test -timeout 0 -run 'TestSimulation$$' $(if $(SEEDS),-sim.seeds $(SEEDS),$(SIM)) .

# Tests on real etcd members inside the test process. Of the benchmarks only what
# needs no etcd is tested here; go -C integration/bench test runs all of them, small.
integration: race
	$(GO) -C integration test $(RACE) -p 1 ./...
	$(GO) -C integration/bench test -short ./...

# The proxy on real etcd, with etcd's own etcdctl, which this builds, and, if node and npm
# are installed, with a JavaScript client from the npm registry.
proxy: race
	$(GO) -C proxy test $(RACE) -p 1 ./...

# The tests under faults of real etcd for longer. Each variation lasts one to seven
# times DURATION, which is 3s in make test.
faults: race
	$(GO) -C integration test $(RACE) -timeout 0 -v -run 'Linearizable|Frozen|SideBySide' -faults.duration $(DURATION) .

# etcd's own tests of its leasing package, unmodified, against this one. For
# other flags: make upstream UPSTREAM="-count=1 -run=Txn -v"
upstream:
	$(GO) -C integration/upstream run . $(UPSTREAM)

# The protocol as a story, on an etcd of its own. It ends by itself.
demo:
	@$(GO) -C integration run ./demo

# One suite of checks on the plain client, etcd's leasing package and this one,
# each on an etcd of its own. It writes docs/scoreboard.md, and fails if this
# library does worse than is known, or better. It takes minutes.
scoreboard:
	@$(GO) -C integration run ./scoreboard -o ../docs/scoreboard.md

# Breaks the library on purpose, and fails if no test that needs no server
# notices: six minutes on two cores. For some of them: make mutants MUTANTS="-run guard"
mutants:
	$(GO) run ./internal/mutants $(MUTANTS)

# The Go benchmarks, and then the three contenders side by side, on real etcd: a
# quarter of an hour on two cores that do nothing else. It writes
# docs/benchmarks.md and its plots. For a part, which is only printed:
# make bench BENCH="-run 'cached Get' -rounds 3"; -h lists the flags.
bench:
	$(GO) test -run '^$$' -bench . -benchmem .
	@$(GO) -C integration/bench run . $(or $(BENCH),-o ../../docs/benchmarks.md -plots ../../docs)

# The proxy beside etcd's leasing proxy and a direct connection: three minutes on two cores
# that do nothing else. It writes docs/proxy.md. For a part, which is only printed:
# make bench-proxy BENCH="-rounds 1"
bench-proxy:
	@$(GO) -C proxy run ./bench $(or $(BENCH),-o ../docs/proxy.md)

fuzz:
	@for f in $$($(GO) test -list '^Fuzz' . | grep '^Fuzz'); do \
		echo "$$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 50x . || exit 1; \
	done

clean:
	rm -rf bin

race:
	@test -n "$(RACE)" || echo "NOTE: cgo is off or there is no C compiler, so the tests run WITHOUT the race detector." >&2
