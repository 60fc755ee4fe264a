# Needs make and Python >= 3.11, nothing else. PYTHON=/path/to/python chooses the interpreter of .venv.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/stamp
PYTHON :=
PYTEST_OPTIONS :=

.DEFAULT_GOAL := help
.PHONY: help $(VENV) train test coverage lint bench deep claims studies clean

help:  ## show this list
	@echo "tokenwalk: a gym in which every environment knows its exact answer"
	@awk -F ':.*## ' '/^[a-z$$().A-Z]+:.*## / { sub(/\$$\(VENV\)/, "$(VENV)", $$1); printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV): $(STAMP)  ## set up the virtual environment (every other target does so by itself)

# Repeated when the dependencies or their pins change; an interrupted set-up leaves no stamp and is repeated too.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	    found=; \
	    for candidate in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14 python); do \
	        if $$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            found=$$candidate; break; \
	        fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "tokenwalk needs Python >= 3.11 with venv and found none: install one (Debian: apt install python3-venv)" \
	            "or name it: make PYTHON=/path/to/python3.11" >&2; \
	        exit 1; \
	    fi; \
	    $$found -m venv --clear $(VENV); \
	fi; \
	echo "setting up $(VENV) with $$($(BIN)/python --version): about a minute, longer where the network is slow"; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[train,dev]'; \
	touch $@

train: $(STAMP)  ## train the first agents and learned rewards and print them beside their exact answers
	@$(BIN)/python scripts/first_run.py

test: $(STAMP)  ## run the fast tests (the slow ones: .ci/run)
	@$(BIN)/python -m pytest -q -m "not slow and not deep" -n auto --maxprocesses 4 --dist loadfile $(PYTEST_OPTIONS)

coverage: $(STAMP)  ## run the fast tests with coverage and compare each room with its minimum
	@$(MAKE) --no-print-directory test PYTEST_OPTIONS="--cov --cov-report=json:build/coverage.json"
	@$(BIN)/python tests/coverage_floors.py

lint: $(STAMP)  ## check style, format, types and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/codespell

bench: $(STAMP)  ## measure speed against Gymnasium's, SB3's and a textbook's
	@$(BIN)/tokenwalk benchmark

deep: $(STAMP)  ## run the commands of README and docs/ that take minutes: before a release
	@$(BIN)/python -m pytest -q -rs -m deep --durations=0

claims: $(STAMP)  ## measure the learning claims of the README again, then make deep (40 minutes)
	@$(BIN)/python scripts/studies/run_claims.py
	@$(MAKE) --no-print-directory deep

studies: $(STAMP)  ## measure the studies of docs/ again and draw their pictures (minutes)
	@$(BIN)/python scripts/studies/run_studies.py

clean:  ## remove caches and builds; .venv and runs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find src envs agents scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
