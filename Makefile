# auth_sessions: the front door. Each target is a script in .make/, where its first lines say more.

.DEFAULT_GOAL := help
.PHONY: help run test test-matrix test-package install package bench chaos failover fuzz audit release fmt lint clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

run: ## serve the API on AUTH_LISTEN (127.0.0.1:8080), with a private PostgreSQL in RUN_DIR (.run)
	@.make/run

test: ## every check; ONLY=e2e FILTER=name for a part
	@.make/test $(ONLY) $(FILTER)

test-matrix: ## the end-to-end tests on PostgreSQL 16, 17 and 18, in roots of their own; SUITES="trixie forky" for some
	@.make/test-matrix $(SUITES)

test-package: ## make the packages, and install and use them in a clean Debian without Rust
	@.make/test-package bookworm

fuzz: ## what a stranger can send, for SECONDS each (60), with a SEED: TARGETS="cookies proxies" for some
	@FUZZ_SECONDS="$(or $(SECONDS),60)" FUZZ_SEED="$(SEED)" .make/fuzz $(TARGETS)

audit: ## known vulnerabilities of the dependencies: asks GitHub, or ADVISORY_DB=/path/to/a/clone
	@ADVISORY_DB="$(ADVISORY_DB)" .make/dependencies advisories

install: ## install the extension into an existing PostgreSQL: PG_CONFIG=/path/to/pg_config
	@PG_CONFIG="$(PG_CONFIG)" .make/install

package: ## packages for machines without Rust, in target/packages: tarballs and .debs; PG_CONFIG=… for another PostgreSQL
	@PG_CONFIG="$(PG_CONFIG)" .make/package

bench: ## the benchmarks, on a private cluster of their own
	@.make/bench

chaos: ## let everything fail for minutes while clients refresh, and count who was logged out; ARGS="--seed 7 --seconds 60"
	@.make/chaos $(ARGS)

failover: ## databases die under load and others take over behind them; ARGS="--clients 64 --rounds 3"
	@.make/failover $(ARGS)

release: ## freeze this version and begin the next: NEXT=X.Y.Z
	@NEXT="$(NEXT)" .make/release

fmt: ## format the Rust code
	@cargo fmt

lint: ## format, lints and dependencies, without the tests
	@.make/test lint

clean: ## stop and remove the private cluster with its data and keys (RUN_DIR); what was built stays
	@.make/clean
