# The targets that README names; continuous integration runs the same `make test`.
SHELL := /bin/bash
KILLS ?= 200
SECONDS ?= 60
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: demo test test-v2 lint bench fuzz soak soak-steady sqlx

demo:
	@deploy/setup.sh demo
	@cargo build --quiet
	@deploy/demo.sh $(if $(KEEP),--keep)

test:
	@deploy/setup.sh test
	@$(MAKE) --no-print-directory lint
	cargo nextest run --no-fail-fast

# The same tests of the real binary in an emulated guest with systemd and cgroup v2.
test-v2:
	tests/vm/run.sh $(FILTER)

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	@deploy/deny.sh

bench:
	@deploy/setup.sh bench
	cargo build --release
	benches/bench.py

# Odd archives, unpacked by podd, GNU tar and bsdtar: make fuzz SECONDS=600 SEED=1
fuzz:
	@deploy/setup.sh fuzz
	PODD_FUZZ_SECONDS=$(SECONDS) PODD_FUZZ_SEED=$(SEED) \
		cargo test --lib -- --ignored --exact --nocapture image::unpack::tests::fuzz::odd_archives_for_a_while

soak:
	@deploy/setup.sh demo
	cargo build --release
	benches/soak.py --kills $(KILLS)

# The same under pods that are Ready, not Ready and not Started: nothing about them may change.
soak-steady:
	@deploy/setup.sh demo
	cargo build --release
	benches/soak.py --steady --kills $(KILLS)

# Write .sqlx/ anew after a change of a query or a migration.
sqlx:
	deploy/sqlx-prepare.sh
