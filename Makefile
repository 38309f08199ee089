# Everything from a clone with Python >= 3.11 and make. Each target sets up .venv/ first if it has to.

NAME ?=
# One process a core, four at most: each holds torch, and one file's tests share their fixtures.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CANDIDATES := $(PYTHON) python3.11 python3.12 python3.13 python3 python
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

ifneq ($(wildcard ../shared/teachers),)
export RLKD_TEACHERS ?= $(abspath ../shared/teachers)
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check bench clean

help:
	@echo "make install              set up $(VENV)/"
	@echo "make demo                 compress the shipped Pong policy and write a report"
	@echo "make test                 the tests"
	@echo "make test-slow            what takes longer: trainings, a thousand damaged files of each format"
	@echo "make check                format, lint, types"
	@echo "make bench NAME=...       one benchmark"
	@echo "make clean                remove $(VENV)/ and what building and testing left; runs/ stays"

install: $(STAMP)

$(STAMP): pyproject.toml
	@set -e; \
	if [ ! -x $(BIN)/pip ]; then \
	    python=; \
	    for candidate in $(CANDIDATES); do \
	        if "$$candidate" -c '$(IS_NEW_ENOUGH)' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "no Python >= 3.11 among: $(CANDIDATES); install one, or: make PYTHON=/path/to/it" >&2; \
	        exit 2; \
	    fi; \
	    "$$python" -m venv --clear $(VENV); \
	fi
	@echo "installing into $(VENV)/; torch alone is a large download" >&2
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/rlkd distill policy:pong --agent demo --episodes 50 --run runs/demo
	$(BIN)/rlkd report runs/demo

# OpenMP threads that spin while they wait take the cores from the environments (see rlkd.vector).
test: $(STAMP)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: $(STAMP)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest $(PYTEST_ARGS) -m slow

check: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy rlkd tests benchmarks

bench: $(STAMP)
	@if [ ! -f "benchmarks/$(NAME).py" ] && [ ! -f "benchmarks/$(NAME)/__main__.py" ]; then \
	    echo "no benchmark '$(NAME)'; make bench NAME=... takes one of:" >&2; \
	    ls benchmarks/*.py benchmarks/*/__main__.py 2>/dev/null \
	        | sed -e 's|^benchmarks/|    |' -e 's|/__main__\.py$$||' -e 's|\.py$$||' -e '/ _/d' >&2; \
	    exit 2; \
	fi
	$(BIN)/python -m benchmarks.$(NAME)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find agents benchmarks envs rlkd tests -name __pycache__ -type d -prune -exec rm -rf {} +
