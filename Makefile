# Everything a developer or CI does. `make` prints help. Needs Python 3.11 or later, nothing else: .venv is made
# from uv.lock, by hash.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# Images like to set it. Tests and benchmarks start hundreds of processes, and each would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

VENV ?= .venv
UV_VERSION := 0.13.9
BIN := $(VENV)/bin

# A Python that is new enough. Shims of version managers exist without working, so each is asked.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

ARGS ?=
# Tests beside each other; 0 for none, and so does ARGS='-p no:xdist'.
WORKERS ?= auto
SEED ?=
MINUTES ?= 10

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(VENV)/.synced ## Make .venv from uv.lock

$(VENV)/.synced: pyproject.toml uv.lock
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.11 or later on the PATH; name one with PYTHON=..." >&2; exit 1; fi
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	UV_PROJECT_ENVIRONMENT=$(VENV) UV_PYTHON=$(BIN)/python UV_PYTHON_DOWNLOADS=never $(BIN)/uv sync --quiet --frozen
	@touch $@

.PHONY: check
check: check-format check-lint check-types check-imports check-deploy ## Format, lint, types, import contracts, chart; -k goes on after a failure

.PHONY: check-format check-lint check-types check-imports check-deploy
check-format: venv
	$(BIN)/ruff format --check
check-lint: venv
	$(BIN)/ruff check
check-types: venv
	$(BIN)/pyright --pythonpath $(BIN)/python
check-imports: venv
	$(BIN)/lint-imports
check-deploy: venv
	$(BIN)/python -m deploy check

.PHONY: format
format: venv ## Format and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: test
test: venv ## All tests that CI needs; ARGS='-k name' chooses, WORKERS=0 runs one after the other
	$(BIN)/python -m pytest $(if $(findstring no:xdist,$(ARGS)),,-n $(WORKERS)) $(ARGS)

.PHONY: chart-server
chart-server: venv ## Install the chart on a real Kubernetes API server, every option on and off; needs Go, builds it once
	$(BIN)/python -m tests.deploy.server $(ARGS)

.PHONY: demo
demo: venv ## The whole thing on this machine
	$(BIN)/processor demo $(ARGS)

.PHONY: bench
bench: venv ## Throughput and latency as ratios to the floor
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: cases
cases: venv ## The cases known to lose or duplicate a record, one by one
	$(BIN)/python -m tests.cases $(ARGS)

.PHONY: features
features: venv ## Every feature with the tests that show it: whether they are there and run
	$(BIN)/python -m tests.features $(ARGS)

.PHONY: system
system: venv ## Long random faults; SEED= repeats a run, MINUTES= ends it
	$(BIN)/python -m tests.system.random_mix $(if $(SEED),--seed $(SEED)) --minutes $(MINUTES) $(ARGS)

.PHONY: quality
quality: venv
	UV_PROJECT_ENVIRONMENT=$(VENV) UV_PYTHON=$(BIN)/python UV_PYTHON_DOWNLOADS=never $(BIN)/uv sync --quiet --frozen --group quality

# The tests that reach engine/ in a process that ends in order. The report comes also after a test has failed.
COVERED ?= tests/unit tests/sql tests/model tests/integration
.PHONY: coverage
coverage: quality ## Which branches of engine/ no test takes; fails below 95 %
	rm -f .coverage .coverage.*
	status=0; \
	$(BIN)/coverage run -m pytest -n $(WORKERS) -q $(COVERED) $(ARGS) || status=$$?; \
	$(BIN)/coverage combine -q && $(BIN)/coverage report && exit $$status

.PHONY: mutants
mutants: quality ## Faults put into statuses, retries, names, schedules, fences: fails if tests notice less than 85 %
	$(BIN)/python -m tests.mutants $(ARGS)

.PHONY: schema
schema: venv ## Write sql/schema.sql, the sum of the migrations
	$(BIN)/python -m tests.sql.snapshot

.PHONY: lock
lock: venv ## Resolve the dependencies anew
	$(BIN)/uv lock --upgrade --default-index https://pypi.org/simple

.PHONY: clean
clean: ## Remove what runs left behind, .venv included
	rm -rf $(VENV) .venv-* build dist mutants .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
