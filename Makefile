# Two commands for a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
RUNS := not slow and not gpu

.PHONY: demo test test-slow lint format clean

demo: .venv/demo-installed
	$(BIN)/memdec run experiments/demo.yaml

test: lint
	$(BIN)/python -m pytest -m "$(RUNS)" --numprocesses logical --maxprocesses 4 --dist loadfile

test-slow: .venv/test-installed
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: .venv/test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/test-installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "memdec needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

.venv/demo-installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[gguf]'
	touch $@

.venv/test-installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[dev,lora,rag,hub,gguf]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
