# Everything runs in .venv, which is made on first use and renewed when pyproject.toml or constraints.txt changes.
#
#   make demo         an ablation study on the embedded trained model: table, figures and a report in runs/quickstart/
#   make check-demo   compare the table of `make demo` with what it was when it was last looked at
#   make photo        prune the embedded default model on a photograph: text, report, overlay pictures in out/
#   make test         the default test suite
#   make test-all     the default suite and the slow tests
#   make test-oldest  the default suite on the oldest supported transformers, in .venv-oldest
#   make lint         ruff and mypy
#   make format       let ruff rewrite what it can
#   make docs         write the generated pages in docs/ anew: components, families, verified, mutations (minutes)
#   make bench        the benchmarks
#   make clean        remove the environments and everything that was made
#
# Variables: PYTHON (3.11 or later), WORKERS (pytest processes, default 2), PYTEST_ARGS (added to every pytest call).

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
WORKERS ?= 2
PYTEST_ARGS ?=

VENV := .venv
OLDEST := .venv-oldest
PIP := -m pip --disable-pip-version-check install -qq

# One thread for each pytest worker: the models are tiny, and more threads only fight over the cores.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# Nothing is downloaded: models and pictures are made or shipped.
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
PYTEST := $(THREADS) $(OFFLINE)

.DELETE_ON_ERROR:
.SHELLFLAGS := -ec
.PHONY: help demo check-demo photo test test-all test-oldest lint format docs bench clean

help:
	@sed -n 's/^#   make/make/p' Makefile

# -- environments: a stamp is written last, so an interrupted installation is simply repeated ------------------------

$(VENV)/.made $(OLDEST)/.made:
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or later was not found; set PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@echo "creating $(@D)"
	@$(PYTHON) -m venv --clear $(@D)
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing vtprune"
	@$(VENV)/bin/python $(PIP) -c constraints.txt -e '.[study]'
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "installing the test tools"
	@$(VENV)/bin/python $(PIP) -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	@echo "installing the development tools"
	@$(VENV)/bin/python $(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

$(OLDEST)/.test: $(OLDEST)/.made pyproject.toml constraints-oldest.txt
	@echo "installing vtprune with the oldest supported transformers"
	@$(OLDEST)/bin/python $(PIP) -c constraints-oldest.txt -e '.[test]'
	@touch $@

# -- what to run ---------------------------------------------------------------------------------------------------

demo: $(VENV)/.run
	@$(THREADS) $(OFFLINE) $(VENV)/bin/vtprune study run quickstart --out runs/quickstart --executor processes --workers $(WORKERS)

check-demo: $(VENV)/.run
	@$(VENV)/bin/python tools/check_demo.py runs/quickstart

photo: $(VENV)/.run
	@$(OFFLINE) sh tools/photo.sh $(VENV)/bin/vtprune out

test: $(VENV)/.test
	@$(PYTEST) $(VENV)/bin/python -m pytest -n $(WORKERS) -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.test
	@$(PYTEST) $(VENV)/bin/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-oldest: $(OLDEST)/.test
	@$(PYTEST) $(OLDEST)/bin/python -m pytest -n $(WORKERS) -m "not slow" $(PYTEST_ARGS)

lint: $(VENV)/.dev
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/mypy

format: $(VENV)/.dev
	@$(VENV)/bin/ruff check --fix --quiet .
	@$(VENV)/bin/ruff format --quiet .

docs: $(VENV)/.run
	@$(VENV)/bin/python tools/component_tables.py
	@$(VENV)/bin/python tools/family_table.py
	@$(VENV)/bin/python tools/verified_tables.py
	@$(THREADS) $(VENV)/bin/python tools/mutation_table.py
	@$(THREADS) $(OFFLINE) $(VENV)/bin/vtprune check --all --record vtprune/conformance.json

bench: $(VENV)/.run
	@$(VENV)/bin/python -m benchmarks.run
	@$(VENV)/bin/python -m benchmarks.selection

clean:
	@rm -rf $(VENV) $(OLDEST) out runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
