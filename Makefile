# Every target makes its own environment first. Options, for example:
#   make test ARGS="tests/solvers -x" WORKERS=0          make quickstart EXTRAS=dev,cuda          make test PYTHON=python3.12
VENV ?= .venv
EXTRAS ?= dev
WORKERS ?= 2
ARGS ?=
export VENV EXTRAS PYTHON VERSIONS CONSTRAINTS
python := $(VENV)/bin/python
compile = $(python) -m uv pip compile --quiet --universal --python-version 3.11 --extra dev setup.cfg --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help quickstart test check lint types imports format notebook benchmark lock wheel env clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

quickstart: env  ## train, sample and measure a small model on the digits; report in runs/quickstart
	$(python) -m experiments.quickstart $(ARGS)

test: env  ## the tests that CI runs; prints the ten slowest
	$(python) -m pytest -n $(WORKERS) --durations=10 $(ARGS)

check: lint types imports  ## everything CI checks besides the tests

lint: env  ## style and errors
	$(python) -m ruff format --check .
	$(python) -m ruff check .

types: env  ## static types
	$(python) -m mypy

imports: env  ## imports go down only
	$(VENV)/bin/lint-imports

format: env  ## rewrite the files in the project's style
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

notebook: env  ## execute notebooks/*.py and renew the .ipynb beside each
	$(python) scripts/run_notebooks.py --write

benchmark: env  ## speed against this machine's own limits and other libraries
	$(python) -m benchmarks $(ARGS)

lock: env  ## renew constraints.txt and constraints-lowest.txt, locks for every supported Python: newest and lowest versions
	$(compile) --upgrade --output-file constraints.txt
	$(compile) --upgrade --resolution lowest-direct --output-file constraints-lowest.txt

wheel: env  ## build the wheel in dist/, to install it elsewhere
	rm -rf build  # or what an earlier build left there is packed too
	$(python) -m build --wheel

env:
	@scripts/environment.sh

clean:  ## remove the environment, caches and builds (runs/ stays)
	rm -rf .venv .venv-* build dist *.egg-info .jax_cache .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
