# Isobar. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# The system's own first: it is built with the optimizations that a version manager, which compiles
# Python on the spot, leaves out. Where it cannot make environments (Debian: python3-venv), another.
ABLE = $(shell for python in $(foreach v,$(1),/usr/bin/$v $v); do \
	$$python -c 'import ensurepip, sys; sys.version_info >= (3, 11) and print(sys.executable)' 2>/dev/null; done; true)
PYTHON ?= $(firstword $(call ABLE,python3.11 python3.12 python3.13 python3))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
PEERS_READY := $(PEERS)/.ready
PEERS_PYTHON ?= $(firstword $(call ABLE,python3.11 python3.12))
PACKAGES := backtest benchmarks evidence execution features isobar market models pipelines reports signals tests
# Three processes for two cores: one of them mostly waits, for a server, a child or the disk.
TEST_FLAGS ?= -n 3 --dist loadgroup

# Real bars are used where they lie beside the checkout; they are not part of the repository.
REAL_BARS := $(realpath ../shared/data)
ifneq ($(REAL_BARS),)
export ISOBAR_SAMPLE_BARS ?= $(REAL_BARS)
endif

.PHONY: help demo test reliability check format lint types layers ui bench bench-peers evidence docs notebooks mutation clean setup

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv and install everything

# An old pip, which a new environment has from the system, takes twice as long. Byte code is made on all
# cores: pip uses one. Sources for later Pythons do not compile, as with pip; the packages' tests need not.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Isobar needs CPython 3.11 or later with venv: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	$(BIN)/python -m features.warm
	@touch $(READY)

demo: $(READY) ## Run the whole pipeline offline on a synthetic market
	$(BIN)/isobar demo

# Compiled first: where Python is told to write no byte code, every process of a test would compile anew.
test: $(READY) ## Run every test
	$(BIN)/python -m compileall -q -j 0 $(PACKAGES)
	$(BIN)/python -m pytest $(TEST_FLAGS)

reliability: $(READY) ## Run every repeat of the crash and fault tests; write docs/reliability.md
	$(BIN)/python -m evidence.reliability

mutation: $(READY) ## Plant faults in risk checks, splitters and leak audit; a test must see each
	$(BIN)/python -m evidence.mutation

check: format lint types layers test ## What CI runs: format, lint, types, floors, tests

format: $(READY) ## Check the formatting
	$(BIN)/ruff format --check .

lint: $(READY) ## Lint
	$(BIN)/ruff check .

types: $(READY) ## Check types, strictly on the pure floors
	$(BIN)/pyright

layers: $(READY) ## Check that floors import only what lies below them
	$(BIN)/lint-imports

ui: $(READY) ## Open Dagster's UI (ISOBAR_HOME=var/demo shows the demo)
	$(BIN)/isobar ui

bench: $(READY) ## Run the benchmarks and write docs/benchmarks.md
	$(BIN)/python -m benchmarks.run

bench-peers: $(READY) $(PEERS_READY) ## Compare features and backtest with pyqlib, in an environment of its own
	$(BIN)/python -m benchmarks.run --peers

docs: $(READY) ## Build the documentation site in var/site; any warning fails
	$(BIN)/python -m isobar.settings_page
	$(BIN)/sphinx-build -q -W --keep-going -b html docs var/site
	@echo "Open var/site/index.html"

notebooks: $(READY) ## Execute the notebooks on the demo's data root, for the documentation
	$(BIN)/python docs/execute_notebooks.py

evidence: $(READY) $(PEERS_READY) ## Measure models and backtests and write docs/evidence.md
	$(BIN)/python -m evidence.run

$(PEERS_READY): benchmarks/peers/requirements.txt
	@test -n "$(PEERS_PYTHON)" || { echo "pyqlib needs CPython 3.11 or 3.12: make bench-peers PEERS_PYTHON=python3.12"; exit 1; }
	test -x $(PEERS)/bin/python || $(PEERS_PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean: ## Remove the virtual environments and caches; data in var/ stays
	rm -rf $(VENV) $(PEERS) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
