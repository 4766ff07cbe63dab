# Everything runs in VENV, which `setup` builds and the other targets wait for.
VENV ?= .venv
# What `setup` takes, remembered until it is named again: STACK=onedl for the maintained
# forks of OpenMMLab's libraries, in place of STACK=openmmlab; OPS=compiled for mmcv's own
# operators, which are compiled for minutes, in place of OPS=lite; TORCH=2.15.0, for
# example, for another torch than that of requirements/stack.txt; CUDA_HOME and
# FORCE_CUDA of the environment, for compiling.
STACK ?=
OPS ?=
TORCH ?=

# First of these that runs and is a supported version. A pyenv shim is found in PATH
# and may still fail when run. Where there is none, tools/setup_env.py says so.
PYTHON ?= $(shell for p in $(VENV)/bin/python python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	>/dev/null 2>&1 && echo $$p && exit; done; echo python3)
# What `make quickstart` does: cls, det or seg
TASK ?= det
# What `make test` runs, and more arguments for it or for the quickstart:
# make test TESTS=tests/test_models ARGS='-k deploy -x'
TESTS ?= tests
ARGS ?=
# What `make check` runs
UNIT_TESTS = tests/test_models tests/test_checkpoint.py tests/test_registry.py
# The processes that run the tests, and how they share them: all tests of a file run in
# the same process and the files start in the order of their names, so that the longest,
# those in tests/e2e, come first. For a debugger: make test WORKERS=0 ARGS=--pdb
WORKERS ?= 2
# With COVERAGE=1, `make ci` also measures which lines and branches of the package run,
# and fails below what .coveragerc asks for. The tests then take 50 to 75 % more time.
COVERAGE ?=
# If a worker dies, the run ends; xdist would wait forever for the tests of a new one.
# pytest removes the temporary files of tests that pass. Three runs would fill 27 GB.
PYTEST = $(VENV)/bin/python -m $(if $(COVERAGE),coverage run -m) pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	--max-worker-restart=0 -o tmp_path_retention_policy=failed

# Without this, a process that shares the cores with others trains up to 25 times slower,
# because the threads of OpenMP wait for each other in a busy loop.
export GOMP_SPINCOUNT ?= 10000
# The set-up leaves byte-compiling to the first import. Without it, each process of the
# tests and of the quickstart would compile torch and OpenMMLab again, for 12 seconds.
unexport PYTHONDONTWRITEBYTECODE
# mmengine and mim import it, and each process would say so several times.
export PYTHONWARNINGS ?= ignore:pkg_resources is deprecated as an API:UserWarning

.DEFAULT_GOAL := help
.PHONY: help setup doctor litert quickstart docs check test ci lint types clean clean-all

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

setup:  ## build .venv, or what is missing from it (PYTHON=, STACK=onedl, OPS=compiled, TORCH=)
	@$(PYTHON) -c '' >/dev/null 2>&1 || { echo "error: '$(PYTHON)' does not run." \
	'Install Python 3.11, 3.12 or 3.13, or name one: make $(or $(MAKECMDGOALS),setup)' \
	'PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) tools/setup_env.py --venv $(VENV) $(if $(STACK),--stack $(STACK)) $(if $(OPS),--ops $(OPS)) \
	$(if $(TORCH),--torch $(TORCH))

# It does not wait for `setup`, because it must also run where that fails.
doctor:  ## say what is wrong with the environment, and how to mend it (ARGS=--json)
	@test -x $(VENV)/bin/python || { echo 'error: no $(VENV): make setup' >&2; exit 1; }
	@$(VENV)/bin/python -m mmghostnetv2.doctor $(ARGS)

litert: setup  ## build the environment that converts to LiteRT, outside the checkout
	@$(PYTHON) tools/setup_env.py --litert

quickstart: setup  ## train and test a small detector from scratch (TASK=cls or seg)
	@$(VENV)/bin/python tools/quickstart.py --task $(TASK) $(ARGS)

# The page is built anew, warnings are errors, and the notebook in it is executed.
docs: setup  ## build the documentation site into build/docs/index.html
	@$(VENV)/bin/python -m sphinx -b html -W --keep-going -E docs build/docs

check: lint types  ## check style, types and the networks in two minutes
	@$(PYTEST) $(UNIT_TESTS)

test: setup  ## run the tests (TESTS=tests/test_models, ARGS='-k deploy -x')
	@$(PYTEST) $(TESTS) -ra --durations=15 $(ARGS)

ci: lint types litert  ## run all that has to pass before a change lands (COVERAGE=1)
	@$(if $(COVERAGE),$(VENV)/bin/coverage erase)
	@$(PYTEST) tests -ra --durations=15
	@$(if $(COVERAGE),$(VENV)/bin/coverage combine -q && $(VENV)/bin/coverage report)

lint: setup  ## check style and formatting
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: setup  ## check the types of the package
	@$(VENV)/bin/mypy

clean:  ## remove generated data and build products; trainings and .venv stay
	rm -rf data/digits* data/digit_pairs* build dist .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

ALL = $(wildcard work_dirs .venv *.egg-info mmghostnetv2/.mim)
clean-all:  ## list trainings, .venv and the like; with YES=1, remove them
	@$(if $(ALL),du -sh $(ALL),echo nothing to remove)
	@$(if $(YES),rm -rf $(ALL),echo 'To remove these: make clean-all YES=1')
