# Every target works on a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-long soak lint clean

demo: $(VENV)/installed
	$(BIN)/dsdctl run specs/digits.yaml

test: $(VENV)/installed
	$(BIN)/pytest

test-long: $(VENV)/installed
	$(BIN)/pytest -m long

KILLS ?= 200

soak: $(VENV)/installed
	$(BIN)/python -m tests.soak.soak --kills $(KILLS)

# The second mypy finds calls that macOS lacks.
lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin

KERNELS := dsdctl/ml/kernels.cpp $(wildcard dsdctl/ml/kernels_*.h)

$(VENV)/installed: pyproject.toml constraints.txt hatch_build.py $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
