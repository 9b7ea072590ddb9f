# make test needs Rust and Python 3; servers are found or fetched by scripts/postgres.
SHELL := /bin/bash
CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
SKIPS := $(TARGET)/test-skips.txt

.PHONY: all demo demo-s3 test test-full fuzz bench bench-peers bench-s3 lint

all:
	$(CARGO) build --release --locked

# A PostgreSQL is backed up under load, loses a table, and gets it back.
demo:
	$(CARGO) build --release --locked
	scripts/demo

# The same with the repository in a bucket of an S3 service, on loopback.
demo-s3:
	$(CARGO) build --release --locked
	scripts/demo --s3

# Builds first, so that no test waits for a compiler; ends with the number of tests that were left out, and why.
test:
	@rm -f $(SKIPS)
	@scripts/forget-shared-memory
	$(CARGO) build --locked --all-targets
	@code=0; \
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    $(CARGO) nextest run --locked --no-fail-fast --no-tests=pass || code=$$?; \
	    $(CARGO) test --locked --doc || code=$$?; \
	else \
	    $(CARGO) test --locked --no-fail-fast || code=$$?; \
	fi; \
	if [ -e $(SKIPS) ]; then sort $(SKIPS) | uniq -c; fi; \
	echo "left out: $$(cat $(SKIPS) 2>/dev/null | wc -l)"; \
	exit $$code

# All majors, and more data.
test-full:
	PGCAIRN_TEST_FULL=1 $(MAKE) test
	scripts/fuzz 60

# A few seconds of fuzzing for each target; scripts/fuzz says more.
fuzz:
	scripts/fuzz 2

# The figures of docs/benchmarks.md.
bench:
	$(CARGO) build --release --locked
	benches/peers/road

# The same, beside pgBackRest and restic (fetched into target/peers).
bench-peers:
	$(CARGO) build --release --locked
	benches/peers/road --peers

# The figures on an S3 service: SeaweedFS on loopback, beside rclone (both fetched by scripts/s3-server).
bench-s3:
	$(CARGO) build --release --locked
	benches/s3/road

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --no-deps
