# TrafficLLM: everything a newcomer or a CI machine types.
#   make quickstart   environment, pinned dependencies, the whole path on real captures
#   make test         ruff, mypy --strict, import rule, house rules, pytest (at most 15 minutes on two cores)
#   make soak         the long jobs
#   make kernels      the packet kernels as LLVM code, after a change of capture/kernels or capture/link
#   make site         the documentation as a site below $(SITE)
#   make results      the figures of docs/results, measured anew
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
PIP ?= $(BIN)/pip install --quiet --disable-pip-version-check
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo "sudo -n")
WORKDIR ?= work
# The developer data, where it is at hand: `make results DATA=../shared/data` also scores the six tasks of the honest table.
DATA ?=
RESULTS_ARGS ?=
# `make results BENCH_ARGS=--small` is a trial of minutes; RESULTS is where the figures go.
BENCHES ?= $(patsubst bench/%.py,%,$(sort $(wildcard bench/bench_*.py)))
BENCH_ARGS ?=
RESULTS ?= docs/results
QUICKSTART_ARGS ?=
SITE ?= dist/site

# Tests and benches: one thread a process, as many processes as cores. The quickstart chooses its threads itself.
export OMP_NUM_THREADS ?= 1
# Idle OpenMP threads sleep: a busy machine otherwise spends its time on their spinning.
export OMP_WAIT_POLICY ?= PASSIVE
export TZ := UTC

.PHONY: help install install-test quickstart lint house unit test tools soak results docs kernels vllm site dist audit clean

help:
	@sed -n 's/^#   //p' Makefile

# The lock first: every package with the hashes of its files, and no other file is taken. Then torch apart, so that its build (CPU or CUDA) is the
# one the package index offers for this machine, and the program itself, built by what the lock brought. HASHES= installs by version alone, for
# an index that builds its own wheels.
HASHES ?= --require-hashes
LOCKED = $(if $(HASHES),--require-hashes --no-deps -r $(1),-c constraints.txt $$(sed -n 's/^\([A-Za-z0-9._-]*==[^ ]*\).*/\1/p' $(1)))
$(VENV)/.installed: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (python3.11 on PATH)" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(call LOCKED,requirements.lock)
	$(PIP) "$(TORCH)"
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.lock
	$(PIP) $(call LOCKED,requirements-test.lock)
	@touch $@

install: $(VENV)/.installed

install-test: $(VENV)/.installed-test

quickstart: install
	env -u OMP_NUM_THREADS $(BIN)/trafficllm quickstart --workdir $(WORKDIR) $(QUICKSTART_ARGS)

# tshark is an oracle of the capture tests, chromium opens the report, tcpdump and tcpreplay are for `live`: tests that need them skip with a reason elsewhere.
tools:
	@missing=""; \
	command -v tshark >/dev/null || missing="$$missing tshark"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v tcpdump >/dev/null || missing="$$missing tcpdump"; \
	command -v tcpreplay >/dev/null || missing="$$missing tcpreplay"; \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null && { [ -z "$(SUDO)" ] || $(SUDO) true 2>/dev/null; }; then \
	  echo "installing$$missing"; \
	  $(SUDO) apt-get update -qq; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	elif [ -n "$$missing" ]; then echo "not here:$$missing; the tests that need them skip"; fi

lint: install-test
	$(BIN)/ruff check src tests bench recipes
	$(BIN)/ruff format --check --quiet src tests bench recipes
	$(BIN)/mypy
	$(BIN)/lint-imports

test: install-test tools lint
	$(BIN)/pytest -n 2 -m "not soak" $(PYTEST_ARGS)

soak: install-test tools
	$(BIN)/pytest -m soak $(PYTEST_ARGS)

results: install-test
	@mkdir -p $(RESULTS)
	for name in $(BENCHES); do \
	  $(BIN)/python bench/$$name.py --json $(BENCH_ARGS) > $(RESULTS)/$$name.json.new && mv $(RESULTS)/$$name.json.new $(RESULTS)/$$name.json || exit 1; \
	done
	env -u OMP_NUM_THREADS $(BIN)/trafficllm quickstart --workdir $(WORKDIR)/results --seed 0 --json $(QUICKSTART_ARGS) \
	  > $(RESULTS)/quickstart.json.new && mv $(RESULTS)/quickstart.json.new $(RESULTS)/quickstart.json
	@if [ -n "$(DATA)" ]; then \
	  $(BIN)/python recipes/results/results.py --data $(DATA) --out $(WORKDIR)/table --results $(RESULTS) --leaderboard LEADERBOARD.md \
	    --threads $$(env -u OMP_NUM_THREADS nproc) $(RESULTS_ARGS); \
	else echo "DATA=<developer data> also scores the six tasks (recipes/results)"; fi

# The pages and schemas that are generated from the program; the tests compare them with what is committed.
docs: install-test
	$(BIN)/python -m trafficllm.surface.docs.pages .

# The packet kernels that come with the package: the tests say when they are not of the sources any more.
kernels: install-test
	$(BIN)/python -m trafficllm.capture.kernels.shipping

# Exported adapters behind a real vLLM (its own environment; VLLM names its program), 1,000 requests in turn: docs/guides/vllm.md.
VLLM ?= vllm
VLLM_ARGS ?= --dtype float32 --enforce-eager --max-model-len 1024 --max-num-seqs 16 --disable-uvicorn-access-log
vllm: install-test
	rm -rf $(WORKDIR)/vllm
	for task in MTD EAC MDD; do $(BIN)/trafficllm adapter export $$task -o $(WORKDIR)/vllm/$$task --for vllm; done
	PATH="$(dir $(VLLM)):$$PATH" recipes/serve/vllm.sh src/trafficllm/data/base/traffic $(WORKDIR)/vllm/* -- $(VLLM_ARGS) >$(WORKDIR)/vllm.log 2>&1 & server=$$!; \
	trap 'kill $$server 2>/dev/null || true; wait $$server || true' EXIT; \
	$(BIN)/python recipes/serve/check.py http://127.0.0.1:$${PORT:-8000}/v1 $(WORKDIR)/vllm/* --wait 1800 --process $$server || { tail -n 20 $(WORKDIR)/vllm.log >&2; exit 1; }

# A warning is an error: a link that leads nowhere, a page that no list names. The tests build it too (tests/e2e/test_site.py).
site: install-test
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs $(SITE)

dist: install-test
	$(BIN)/python -m build
	$(BIN)/python recipes/supply/sbom.py -o dist/trafficllm.cdx.json

# Known weaknesses of what is locked; needs pip-audit and an index of advisories that can be reached.
audit: install
	$(PIP) pip-audit
	for lock in requirements.lock requirements-test.lock; do $(BIN)/python -m pip_audit --no-deps --disable-pip -r $$lock; done

clean:
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
