# Two commands for a newcomer: `make demo` and `make test`. They need python3 (3.10 or newer) and make.
#
# Everything happens in this folder: the environment is .venv, and what the tools keep about themselves is .venv/state.
# A stamp in .venv says that an extra is installed; it is older than setup.cfg when that changed, and then it is made again.

PYTHON ?= python3
ARGS ?=

STATE := $(CURDIR)/.venv/state
export MPLCONFIGDIR := $(STATE)/matplotlib
export IPYTHONDIR := $(STATE)/ipython
export JUPYTER_CONFIG_DIR := $(STATE)/jupyter/config
export JUPYTER_DATA_DIR := $(STATE)/jupyter/data
export JUPYTER_RUNTIME_DIR := $(STATE)/jupyter/runtime
export JUPYTER_PLATFORM_DIRS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-all test-gpu gpu lint types notebooks clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: .venv/demo ## train the models on real data and write ./report  (ARGS="--quick --report DIR")
	.venv/bin/python -m engine demo $(ARGS)

# Files go to processes whole, so that what a file sets up or compiles is made once. Kernels use several cores themselves: four processes are enough.
PYTEST := .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: .venv/test ## the default test suite  (ARGS="tests/test_cli.py -k help")
	$(PYTEST) $(ARGS)

test-all: .venv/test ## the default suite and the long profiles
	$(PYTEST) -m "" $(ARGS)

test-gpu: gpu .venv/test .venv/cuda-dev ## the tests of CUDA kernels on the GPU of this machine, if it has one
	GNOMON_DEVICE=real .venv/bin/python -m pytest tests/cuda $(ARGS)

gpu: .venv/made
	@.venv/bin/python -c 'import sys; from kernels.registry import has_gpu; \
	  sys.exit(None if has_gpu() else "no GPU here: `make test` runs the same tests on the emulator")'

lint: .venv/dev ## ruff: mistakes and layout
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/dev ## mypy
	.venv/bin/python -m mypy

notebooks: .venv/test ## run the notebooks and write the twins with their outputs  (ARGS="01_one_neuron")
	.venv/bin/python notebooks/build.py $(ARGS)

clean: ## remove the environment and the caches of the tools; runs/ and report/ stay
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. The first stamp holds the folder it was made in: an environment does not survive a move, so it is made again.

ifneq ($(shell cat .venv/made 2>/dev/null),$(shell pwd -P))
.PHONY: .venv/made
endif

.venv/made:
	@case "$$(pwd -P)" in *'$$'*) echo 'setuptools cannot install from a folder with a $$ in its path: please rename it'; exit 1;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo 'Gnomon needs Python 3.10 or newer. If there is another one: make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -m venv .venv || { echo 'python3 -m venv does not work here. On Debian and Ubuntu: apt install python3-venv'; exit 1; }
	@mkdir -p .venv/state && pwd -P > $@

.venv/demo .venv/test .venv/dev .venv/cuda-dev: .venv/made setup.cfg pyproject.toml
	@echo 'Installing gnomon[$(@F)] into .venv'
	@.venv/bin/python -m pip install --quiet --editable '.[$(@F)]'
	@touch $@
