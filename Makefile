# The front door; Meson does the work. Each target first installs the Debian packages it needs (scripts/deps).

BUILD ?= build
# Suites whose tests cross threads: these run under ThreadSanitizer too.
TSAN_SUITES ?= core io fabric comch system
# Seconds a fuzzer.
FUZZ_SECONDS ?= 20
export TSAN_SUITES FUZZ_SECONDS
# Of make soak: which parts (default: all), how many rounds of each (default: the part's own), the seed. SEED and TIME, in
# seconds, also of make sim.
PART ?=
ROUNDS ?=
SEED ?=
TIME ?= 60
# Of make mutants: one in so many.
SHARE ?=
export TIME
# An empty one would be heard by tests that take SEED for "only this one".
$(foreach name,PART ROUNDS SEED SHARE,$(if $($(name)),$(eval export $(name))))

.NOTPARALLEL:
.PHONY: all build demo demo-rdma test sim mutants bench lint fuzz soak format clean help deps-build deps-test deps-bench \
	deps-lint deps-fuzz

all: build

build: deps-build ## builds the programs (build/src)
	@test -f $(BUILD)/build.ninja || CC=$${CC:-gcc} meson setup $(BUILD) -Dtests=$$(pkg-config --exists cmocka && echo true || echo false)
	@ninja -C $(BUILD)

demo: deps-test build ## real data there and back, verified: on three replicas with the leader killed, then striped over two targets
	@scripts/demo_cluster
	@scripts/demo

demo-rdma: deps-test build ## the same over verbs on Soft-RoCE, in a guest, with small sizes
	@tests/guest/demo.py $(BUILD)

test: deps-test ## every test: gcc, clang, ASan+UBSan, TSan; ends with a line that sums them up
	@scripts/test

sim: deps-test build ## breaks simulated clusters from SEED on for TIME seconds; a failure is drawn
	@scripts/sim

mutants: deps-test build ## breaks core, store, targets and gateways in 1 of SHARE ways; what no test notices is in docs/mutants.md
	@scripts/mutants

bench: deps-bench build ## measures beside fio and plain sockets
	@scripts/bench

lint: deps-lint ## layout, layers, coroutines, copies, sizes, documents
	@scripts/lint

fuzz: deps-fuzz ## every fuzzer for FUZZ_SECONDS
	@scripts/fuzz

soak: FUZZ_SECONDS = 600
soak: deps-test deps-fuzz ## long runs: kill -9, fuzzers, sanitizers; PART=kill ROUNDS=100; docs/soak-ledger.md
	@scripts/soak

format: deps-lint ## lays out every C file
	@git ls-files -z --cached --others --exclude-standard '*.c' '*.h' ':!tests/lint/' | xargs -0 -r clang-format -i

clean: ## removes what was built
	rm -rf build build-*

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

deps-build:
	@scripts/deps build
deps-test:
	@scripts/deps build test lint
deps-bench:
	@scripts/deps build test bench
deps-lint:
	@scripts/deps lint
deps-fuzz:
	@scripts/deps build fuzz
