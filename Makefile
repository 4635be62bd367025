# SPDX-License-Identifier: Apache-2.0
# Everything runs in .venv, a virtual environment of this checkout with the versions of constraints.txt.
# Needed beforehand: Python 3.11 or newer, make, git.

PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3),python)
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo down test check bench lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## Run the example from nothing: pool, servers, 20 jobs, a histogram
	@$(BIN)/python examples/zpeak/demo.py $(ARGS)

down: $(READY) ## Stop what `make demo` started: servers and private pool
	@$(BIN)/glideflow down
	@$(BIN)/glideflow pool down

test: $(READY) ## Run all tests; ARGS='tests/unit -k split' for some of them
	@$(BIN)/pytest $(ARGS)

check: $(READY) ## Check format, style, types, import rules, the pilot's Python floor, shell scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/unit/test_layers.py
	$(BIN)/python docs/generate.py --check
	$(BIN)/vermin -q -t=3.9- --no-tips --violations pilot/glideflow_pilot
	@# The shell scripts among the files of the repository, by name or by first line.
	git ls-files -z | xargs -0 grep -lIE --null '^#! ?/(usr/)?bin/(env )?(ba|da|)sh' | xargs -0 -r $(BIN)/shellcheck

bench: $(READY) ## Measure: throughput, latency; the tables go to docs/benchmarks.md
	@$(BIN)/python tests/benchmarks/run.py $(ARGS)

lock: $(READY) ## Write constraints.txt anew with the latest versions that pyproject.toml allows
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --upgrade --quiet \
	    --no-emit-index-url --no-header --no-annotate --output-file constraints.txt

clean: ## Remove the virtual environment and the tools' caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

# uv installs in seconds; where it finds no index (a mirror known to pip only), pip does the same more slowly.
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "this Python cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV)" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --constraint constraints.txt --editable '.[dev]' || \
	    $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
