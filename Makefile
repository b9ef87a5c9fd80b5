# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Needed: Python 3.11 or newer, make, git. Everything else is installed into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Wheels of several hundred megabytes need more than the default half minute on a slow line.
export UV_HTTP_TIMEOUT ?= 600
# Bytecode is written once and kept, wherever it is turned off: without it each start takes several seconds longer.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-all lint bench docs lock clean

setup: $(READY)

# The system's pip may refuse to install outside a virtual environment; inside one it may not exist (no ensurepip).
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no python3 found; install Python 3.11 or newer, or set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || $(PYTHON) -m venv --without-pip $(VENV)
	@if [ -x $(BIN)/pip ]; then $(BIN)/python -m pip install --quiet uv; \
	  else $(PYTHON) -m pip --python $(BIN)/python install --quiet uv; fi
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: setup
	$(BIN)/paperworks run fnet --scale demo

test: setup
	$(BIN)/pytest -n 2 -m "not slow"

test-all: setup
	$(BIN)/pytest -n 2

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup
	@for slug in $$($(BIN)/paperworks list | cut -f2); do $(BIN)/paperworks bench $$slug || exit 1; done

docs: setup
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# The lock holds hashes and versions, no index addresses.
lock: setup
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev \
	  --no-emit-index-url pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) docs/_build docs/papers .pytest_cache .ruff_cache .hypothesis
