# Every target makes its own virtual environment in .venv; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TEST_HOME := $(CURDIR)/.tuili
TEST_WORKERS ?= 2

.DEFAULT_GOAL := help
# Which benchmarks `make bench` runs.
ONLY ?= *

.PHONY: help demo test check bench docs clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tuili needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml setup.py constraints.txt $(wildcard src/tuili/attention/csrc/*) | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml setup.py constraints.txt $(wildcard src/tuili/attention/csrc/*) | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(PIP) install --constraint constraints.txt --editable '.[all,dev,bench]'
	@touch $@

demo: $(VENV)/.installed ## Bring models and knowledge bases, answer one question from each, verify an answer
	$(BIN)/tuili models add minilm
	$(BIN)/tuili models add smollm2-135m
	$(BIN)/tuili kb add python --force
	$(BIN)/tuili kb add formulas --force
	$(BIN)/tuili kb add hpo --force
	$(BIN)/tuili ask --explain "Which parameter of json.dumps controls indentation?"
	$(BIN)/tuili ask --explain "A car accelerates from rest at 3 m/s² for 5 s. How far does it get?"
	$(BIN)/tuili ask --explain "Which diseases show ectopia lentis, arachnodactyly and aortic root aneurysm?"
	$(BIN)/tuili ask --json "A car accelerates from rest at 3 m/s² for 5 s. How far does it get?" > $(VENV)/answer.json
	$(BIN)/tuili verify $(VENV)/answer.json

test: $(VENV)/.installed-dev ## Bring models and knowledge bases into .tuili, run every test
	TUILI_HOME=$(TEST_HOME) $(BIN)/python scripts/bring.py
	OMP_NUM_THREADS=1 TUILI_HOME=$(TEST_HOME) $(BIN)/python -m pytest -n $(TEST_WORKERS) -q

check: $(VENV)/.installed-dev ## Lint, types, layers, sizes, generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/size.py
	$(BIN)/python scripts/docs.py --check
	$(BIN)/python scripts/tables.py --check

bench: $(VENV)/.installed-bench ## Run every benchmark, or those that ONLY names ('reasoning_*'), write results and tables
	TUILI_HOME=$(TEST_HOME) $(BIN)/python scripts/bring.py
	@for file in $(filter-out benchmarks/runner.py,$(wildcard benchmarks/$(ONLY).py)); do \
	    name=$$(basename $$file .py); echo "$$name"; \
	    TUILI_HOME=$(TEST_HOME) $(BIN)/python $$file --out benchmarks/results/$$name.json || exit 1; \
	done
	$(BIN)/python scripts/tables.py

docs: $(VENV)/.installed-dev ## Write the generated parts of the documents
	$(BIN)/python scripts/docs.py
	$(BIN)/python scripts/tables.py

clean: ## Remove everything that make made, models and bases of the tests included
	rm -rf $(VENV) $(TEST_HOME) build dist src/*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
