# Every target builds the environment it needs: a machine with Python 3.11+ and make is enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-whole test-all lint docs ci clean help setup

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/'

# pip compiles what it installs on one core, half of its time; all cores do that after it. Some packages carry files for
# other Pythons, which do not compile and which nothing imports.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Eisbach needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib; true
	touch $@

setup: $(STAMP) ## build the environment in .venv

demo: $(STAMP) ## the main job: fine-tune, generate, measure, compare; opens eisbach-demo/report/index.html
	$(BIN)/eisbach demo --out eisbach-demo

# One thread a worker: two workers of two threads each take twice as long on two cores. Each has half of the files, so
# that what the tests of a file share is made once, and takes from the other's half when its own is done. Compiled code is
# kept, wherever the shell says not to: test files are rewritten by pytest, and every process that a test starts imports.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(STAMP) ## the test suite
	$(PYTEST)

test-whole: $(STAMP) ## whole paths and what else takes seconds; CI runs it after `make test`
	$(PYTEST) -m 'whole and not slow'

test-all: $(STAMP) ## every test there is
	$(PYTEST) -m ''

lint: $(STAMP) ## ruff, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP) ## the documentation as a site: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

ci: lint docs test test-whole

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
