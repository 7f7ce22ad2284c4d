# auth_sessions: the front door. Each target is a script in .make/, where its first lines say more.

.DEFAULT_GOAL := help
.PHONY: help run test install bench release fmt lint clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: ## serve the API on AUTH_LISTEN (127.0.0.1:8080), with a private PostgreSQL in RUN_DIR (.run)
	@.make/run

test: ## every check; ONLY=e2e FILTER=name for a part
	@.make/test $(ONLY) $(FILTER)

install: ## install the extension into an existing PostgreSQL: PG_CONFIG=/path/to/pg_config
	@PG_CONFIG="$(PG_CONFIG)" .make/install

bench: ## the benchmarks, on a private cluster of their own
	@.make/bench

release: ## freeze this version and begin the next: NEXT=X.Y.Z
	@NEXT="$(NEXT)" .make/release

fmt: ## format the Rust code
	@cargo fmt

lint: ## format and lints, without the tests
	@.make/test lint

clean: ## stop and remove the private cluster with its data and keys (RUN_DIR); what was built stays
	@.make/clean
