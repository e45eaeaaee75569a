# Every target works on a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-long test-numerics soak lint clean

demo: $(VENV)/installed
	$(BIN)/dsdctl run specs/digits.yaml

test: $(VENV)/installed
	$(BIN)/pytest

test-long: $(VENV)/installed
	$(BIN)/pytest -m long

# What makes the libraries compute as they do on other processors; a comma is between several at
# once. MKL chooses its code on AMD's by MKL_CBWR alone, on Intel's by either.
NUMERICS := MKL_ENABLE_INSTRUCTIONS=AVX2 MKL_CBWR=COMPATIBLE,DSDCTL_KERNELS=avx2 \
	ONEDNN_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX512_CORE ATEN_CPU_CAPABILITY=avx2 \
	DSDCTL_KERNELS=off

test-numerics: $(VENV)/installed
	for settings in $(NUMERICS); do \
		echo "as with $$settings"; \
		env $$(echo "$$settings" | tr , ' ') $(BIN)/pytest -m 'numerics and not long' || exit 1; \
	done

KILLS ?= 200

soak: $(VENV)/installed
	$(BIN)/python -m tests.soak.soak --kills $(KILLS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

KERNELS := dsdctl/ml/kernels.cpp $(wildcard dsdctl/ml/kernels_*.h)

$(VENV)/installed: pyproject.toml constraints.txt hatch_build.py $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
