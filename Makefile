# Afterwatt. Everything happens in .venv; `make help` lists the targets.
# Needs make, and Python 3.11 or newer (PYTHON=/path/to/python3.11 if it is not found by name).

PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
CONSTRAINTS := constraints.txt
PACKAGES := cli engine fidelity hwprofiles modelspecs policies reports sim studies traces
# numpy's threads only get in each other's way in a simulator that is one loop.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo install dev compile test quick lint format bench docs constraints clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: install ## simulate the shipped sample on a Tesla M40: prints the table and the path of the report
	@$(BIN)/simulate --hw m40 --trace chat.parquet --out demo --overwrite

install: $(VENV)/.installed ## make .venv and install Afterwatt into it

dev: $(VENV)/.developed ## the same, with what tests and checks need

compile: dev ## compile the inner loop again after an edit: the same results, sooner
	@$(BIN)/python -m afterwatt.compile

test: dev ## run all tests (installs what they need, a headless Chromium too where that is possible)
	@sh .ci/chromium
	$(BIN)/python -m pytest $(PYTEST_ARGS)

quick: dev ## run the tests that take no more than a few seconds each
	$(BIN)/python -m pytest -m "not slow and not browser" $(PYTEST_ARGS)

lint: dev ## ruff, mypy --strict, and the arrows between the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

format: dev ## let ruff put the sources in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: dev ## time the simulator, in units of one bare SimPy timeout
	$(BIN)/python benchmarks/speed.py

docs: dev ## run what README and docs show, and put the results there
	$(BIN)/python docs/refresh.py

constraints: ## pin the newest versions that pyproject.toml admits: what CI will test with
	rm -rf $(VENV)-pins
	"$(PYTHON)" -m venv $(VENV)-pins
	echo "torch==2.13.0" > $(VENV)-pins/torch
	$(VENV)-pins/bin/python -m pip -qq --disable-pip-version-check install --constraint $(VENV)-pins/torch ".[test]"
	{ echo "# What CI tests with; rewrite with: make constraints"; \
		$(VENV)-pins/bin/python -m pip freeze --exclude afterwatt | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; } > $(CONSTRAINTS)
	rm -rf $(VENV)-pins

clean: ## remove what runs, tests and builds have left
	rm -rf demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf src/afterwatt/_compiled
	find $(PACKAGES) tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)

# -- the virtual environment ------------------------------------------------------------------------------------------

$(VENV)/.made:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Afterwatt needs Python 3.11 or newer; '$(PYTHON)' is not. Say: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@"$(PYTHON)" -m venv $(VENV) || \
		{ echo "'$(PYTHON) -m venv' failed; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@touch $@

# Built in the environment itself: one resolution, under one set of pins, with nothing fetched twice.
$(VENV)/.installed: $(VENV)/.made pyproject.toml $(CONSTRAINTS)
	@echo "installing into $(VENV) ..."
	@$(PIP) install --constraint $(CONSTRAINTS) hatchling editables
	@$(PIP) install --constraint $(CONSTRAINTS) --no-build-isolation --editable .
	@! command -v cc >/dev/null || $(PIP) install --constraint $(CONSTRAINTS) "mypy[mypyc]"
	@echo "the inner loop runs $$($(BIN)/python -m afterwatt.compile)"
	@touch $@

$(VENV)/.developed: $(VENV)/.installed
	@echo "installing the test tools ..."
	@$(PIP) install --constraint $(CONSTRAINTS) --no-build-isolation --editable ".[test]"
	@touch $@
