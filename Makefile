# The verbs of this project, in reading order. CI calls only these.
#
#   make demo    set everything up, bring a mesh up on lab hosts of this machine, show it working, take it down
#   make test    set everything up, run all tests (root brings the real hosts; without root they say why they are left out)
#   make check   the fast half: lint, types, pure tests; no root, no containers
#   make release the daemon as it is shipped, half as large: minutes, and more packages
#   make released the tests of the daemon's life against what is shipped, instead of what `make test` runs on
#   make nightly what takes long: that, fuzzing, hundreds of kills and upgrades, a soak of half an hour, another kernel
#
# Everything lands in .venv, build and meshd/target; nothing outside the checkout but system packages (.ci/packages).

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# Not with make's own options in sight: some versions ask for its job server, which only another make is given.
ALONE := env -u MAKEFLAGS -u MFLAGS
CARGO := $(ALONE) cargo
RUST := --manifest-path meshd/Cargo.toml
# pytest-xdist would make hosts collide; the tests that need hosts run one after the other.
PYTEST := $(BIN)/pytest -q
# How many stages `make test` works on at the same time. Some keep two processors busy, and those with hosts mostly wait: for
# timers of the protocol, for what boots. No two share an address, a name or a file; what one prints comes in one piece.
ABREAST := --no-print-directory -j2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=line)

.PHONY: help demo test check setup setup-demo setup-test setup-nightly setup-release build daemon release released lint types unit integration test-daemon test-tool test-lab test-roles image molecule nightly bench wheel lock clean

help:
	@sed -n '2,9s/^# \{0,1\}//p' Makefile
	@echo "  others:     $$(sed -n 's/^\.PHONY: help demo test check setup setup-demo setup-test setup-nightly setup-release //p' Makefile)"

demo: setup-demo build
	@examples/demo.sh

test: setup-test
	@$(MAKE) $(ABREAST) build test-daemon check integration molecule

check: setup lint types unit

## ---- set-up ------------------------------------------------------------------------------------------------------

setup: $(VENV)/.stamp build/collections/.stamp

setup-demo setup-test setup-nightly setup-release: setup-%:
	@.ci/packages $*

$(VENV)/.stamp: requirements-dev.lock pyproject.toml
	@command -v cargo > /dev/null && python3 -c 'import venv, ensurepip' 2> /dev/null || .ci/packages build
	@test -x $(BIN)/python || python3 -m venv $(VENV)
	@echo "setup: installing the Python packages of requirements-dev.lock"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# A checkout offers its roles to Ansible through links; a wheel carries them as a collection.
build/collections/.stamp: $(VENV)/.stamp meshctl/ansible/link_collection.py
	@$(BIN)/python meshctl/ansible/link_collection.py build/collections
	@touch $@

build: setup daemon

daemon:
	@$(ALONE) meshd/build.sh

# What the wheel carries. `build` is what the tests run on: the same daemon with glibc, in a minute.
release: setup-release setup
	@meshd/build.sh small
	@$(PYTEST) tests/wheel/test_size.py

## ---- tests -------------------------------------------------------------------------------------------------------

lint: setup
	@$(BIN)/ruff check meshctl tests roles molecule bench
	@$(BIN)/ruff format --check meshctl tests
	@$(CARGO) fmt $(RUST) --all --check
	@if $(CARGO) clippy --version > /dev/null 2>&1; then \
	    $(CARGO) clippy $(RUST) --workspace --all-targets --features meshd-proto/criterion --quiet -- -D warnings && \
	    $(CARGO) clippy $(RUST) --package meshd --quiet -- -D warnings; \
	  else echo "lint: cargo clippy is not on this machine, left out"; fi

types: setup
	@$(BIN)/mypy meshctl

unit: setup
	@$(CARGO) test $(RUST) --quiet --package meshd-proto --package meshd-aead --package meshd-fuzz
	@$(PYTEST) -n auto tests/core tests/cases tests/laws tests/bench tests/test_house.py

integration: test-daemon test-tool test-lab test-roles

test-daemon:
	@$(CARGO) test $(RUST) --quiet --package meshd-os --package meshd-packet --package meshd

test-tool: build
	@$(PYTEST) tests/wheel tests/shell tests/cli

test-lab: build
	@$(PYTEST) tests/lab

test-roles: build image
	@$(PYTEST) tests/roles

# What hosts in podman boot from, made once before two stages want it at the same time.
image: setup
	@$(BIN)/python tests/roles/hosts.py image

molecule: build image
	@if [ "$$(id -u)" -eq 0 ]; then molecule/run; else echo "molecule: needs root for its systemd hosts, left out"; fi

# What differs in a released daemon: musl, a standard library of its own, code compiled for size.
RELEASED := roles/daemon/files/bin/$(shell uname -m)/meshd
RELEASED_TESTS := daemon confined handover rotation closed route_users
released: release
	@MESHD_TESTED="$(CURDIR)/$(RELEASED)" $(CARGO) test $(RUST) --quiet --package meshd $(RELEASED_TESTS:%=--test %)

# Seconds for each target of the fuzzer, and of the soak.
FUZZ_SECONDS := 300
SOAK_SECONDS := 1800

# How often a daemon is killed while it sends, and how many pings it answers between upgrades.
KILLS := 400
PINGS := 60000

nightly: setup-nightly released
	@RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=meshd/target/loom $(CARGO) test $(RUST) --quiet --package meshd-proto --lib every_order
	@meshd/fuzz/run $(FUZZ_SECONDS)
	@MESHD_KILLS=$(KILLS) MESHD_PINGS=$(PINGS) $(CARGO) test $(RUST) --quiet --package meshd --test continuity -- --nocapture
	@MESHD_PINGS=$$(($(PINGS) / 4)) $(PYTEST) --log-cli-level=INFO tests/roles/test_handover.py -k interrupt
	@SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test $(RUST) --quiet --release --package meshd --test soak -- --nocapture
	@$(CARGO) test $(RUST) --quiet --package meshd --test interop -- --ignored
	@meshd/vm/run

## ---- more --------------------------------------------------------------------------------------------------------

bench: release
	@bench/tunnel --short

wheel: release
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist

lock:
	@$(BIN)/pip-compile --quiet --upgrade --extra dev --generate-hashes --strip-extras --no-emit-index-url \
	    --no-emit-find-links --no-emit-trusted-host --no-emit-options -o requirements-dev.lock pyproject.toml

clean:
	rm -rf build dist meshd/target $(VENV)
