# SPDX-License-Identifier: Apache-2.0
# Every target prepares what it needs by itself: see tools/prepare.
.DEFAULT_GOAL := help
.PHONY: help check test test-long soak demo deb wheel lock clean

PYTHON := .venv/bin/python
# make test SUITES="unit services" ARGS="-k name": only these suites, only these tests
SUITES :=
ARGS :=
MINUTES := 20
SEED :=

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

check: ## lint, types, unit tests: under a minute, no root needed
	@tools/prepare check
	@$(PYTHON) tests/run.py --suites lint types unit -- $(ARGS)

test: ## every test but the long ones, on test hosts with a real systemd; as root
	@tools/prepare hosts
	@tools/prepare packages
	@tools/build-debs >/dev/null
	@$(PYTHON) tests/run.py --suites $(SUITES) -- $(ARGS)

test-long: ## the long tests, a virtual machine's among them: some 35 minutes, at most 75; as root
	@tools/prepare machine
	@tools/prepare packages
	@tools/build-debs >/dev/null
	@$(PYTHON) tests/run.py --suites long endpoint-long engines-long clusters-long services-long system-long -- $(ARGS)

soak: ## faults of chance on a site under load, MINUTES=20 of them (SEED=… as before); as root
	@tools/prepare hosts
	@tools/prepare packages
	@tools/build-debs >/dev/null
	@PYTHONPATH=src:tests $(PYTHON) -m system.faults.soak $(MINUTES) $(SEED)

demo: ## two researchers, three engines, three hosts; KEEP=1 leaves the hosts running; as root
	@tools/prepare hosts
	@tools/prepare packages
	@PYTHONPATH=tests $(PYTHON) -m demo

deb: ## the Debian packages, in dist/; as root
	@tools/prepare packages
	@tools/build-debs

wheel: ## the Python package, in dist/
	@tools/prepare check
	@tools/build-wheel

lock: ## renew requirements/*.lock
	@tools/lock

clean: ## remove what was made in this directory (caches elsewhere are kept)
	rm -rf build dist .venv .mypy_cache .ruff_cache src/*.egg-info
	rm -rf debian/.debhelper debian/.build-tools debian/debhelper-build-stamp debian/files \
	    debian/globus-compute-endpoint debian/globus-compute-services debian/*.substvars debian/*.debhelper
	find src tests tools -name __pycache__ -prune -exec rm -rf {} +
