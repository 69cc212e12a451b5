# Every target sets up what it needs in .venv; when pyproject.toml has not changed, set-up does nothing.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CODE   := src tests bench docs
BENCH  ?= $(filter-out bench/record.py,$(wildcard bench/*.py))

.PHONY: help quickstart test test-slow test-gpu bench tables clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

quickstart: $(VENV)/.gym ## Grow a small reasoner from nothing and show how each stage lifts it
	@$(BIN)/ponderosa run quickstart

test: $(VENV)/.dev ## Every check: format, lint, types, import boundaries, tests
	$(BIN)/ruff format --check --quiet $(CODE)
	$(BIN)/ruff check --quiet $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -n 2

test-slow: $(VENV)/.dev ## Tests that take minutes: whole recipes, killed and continued
	$(BIN)/pytest -m slow

test-gpu: $(VENV)/.dev ## Tests that need an accelerator
	$(BIN)/pytest -m gpu

bench: $(VENV)/.bench | runs/quickstart/models/sft ## Measure everything beside its peer, into results/bench-NAME/
	@set -e; for script in $(BENCH); do echo "== $$script"; $(BIN)/python bench/record.py $$script; done

runs/quickstart/models/sft: | $(VENV)/.bench
	@$(BIN)/ponderosa run quickstart

tables: $(VENV)/.gym ## Fill the tables of the README and docs/ from results/ and the sources
	$(BIN)/python docs/tables.py

clean: ## Remove .venv, caches and build output; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

# One stamp for each set of extras. The install is editable, so it follows the sources.

$(VENV)/.gym: pyproject.toml | $(BIN)/python
	@echo "Installing Ponderosa into $(VENV) (a few minutes the first time)"
	@$(BIN)/pip install -q -e '.[gym]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing Ponderosa and its checks into $(VENV) (a few minutes the first time)"
	@$(BIN)/pip install -q -e '.[gym,dev]'
	@touch $(VENV)/.gym $@

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	@echo "Installing Ponderosa and its peers into $(VENV) (a few minutes the first time)"
	@$(BIN)/pip install -q -e '.[gym,bench]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: Ponderosa needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "       Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; \
	}
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu install python3-venv." >&2; exit 1; }
