# `make train` and `make test` are all that a new machine needs: both create the environment first.
# pip reads its usual settings (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, ...), for example to install a
# CPU wheel of the pinned torch.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
DEVICE ?= cpu
JOBS ?= 2
PIP_FLAGS ?= -qq

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^\(torch==[^ ;#]*\).*/\1/p' constraints.txt)

# -qq: pip prints only errors.
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install $(PIP_FLAGS) -c constraints.txt
PIP_FAILED = { echo "error: pip could not install $(1); for its full output: make install PIP_FLAGS=" >&2; exit 1; }
CHECK_PYTHON := import sys; v = sys.version_info[:2]; \
	sys.exit(None if (3, 11) <= v < (3, 14) else "error: rlora needs Python >=3.11,<3.14, but %s is %d.%d; %s" % (sys.argv[1], *v, sys.argv[2]))

.DEFAULT_GOAL := help
.PHONY: help install train bench test lint format docs docs-serve clean

help:  ## Show this help
	@echo 'usage: make TARGET [ARGS="..."] [PYTHON=$(PYTHON)] [VENV=$(VENV)]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## Create the environment VENV with the pinned versions

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: '$(PYTHON)' is not installed; set a Python >=3.11,<3.14, as in make install PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c '$(CHECK_PYTHON)' $(PYTHON) 'set another, as in make install PYTHON=python3.12'
	@test -n '$(TORCH)' || { echo "error: constraints.txt has no line torch==VERSION" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c '$(CHECK_PYTHON)' $(BIN)/python 'remove $(VENV), then run make install'
	@echo "installing $(TORCH)"
	@$(PIP_INSTALL) '$(TORCH)' || $(call PIP_FAILED,$(TORCH))
	@echo "installing rlora and its dependencies"
	@$(PIP_INSTALL) -e '.[dev]' || $(call PIP_FAILED,rlora)
	@touch $@

train: install  ## Run train.py, e.g. make train ARGS="adapter=rlora task=mnli"
	$(BIN)/python train.py $(ARGS)

bench: install  ## Measure speed, memory and file sizes, e.g. make bench ARGS="--only steps"
	$(BIN)/python -m benchmarks --device $(DEVICE) $(ARGS)

test: install lint  ## Lint and test in JOBS=2 processes, e.g. make test ARGS="-k hadamard"
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: install  ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## Apply the formatter and the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install  ## Build the documentation into site/, with warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs-serve: install  ## Serve the documentation on localhost and reload on changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

clean:  ## Remove caches and build files; keep VENV and outputs/
	rm -rf build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./.git -prune -o -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +
