# Every target works on a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-long test-numerics faults soak lint format clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/installed  ## run specs/digits.yaml: five minutes on two cores
	$(BIN)/dsdctl run specs/digits.yaml

test: $(VENV)/installed  ## the default suite
	$(BIN)/pytest

test-long: $(VENV)/installed  ## what takes minutes: Ray, Slurm, the browser, the demo
	$(BIN)/pytest -m long

# What makes the libraries compute as they do on other processors; a comma is between several at
# once. MKL chooses its code on AMD's by MKL_CBWR alone, on Intel's by either.
NUMERICS := MKL_ENABLE_INSTRUCTIONS=AVX2 MKL_CBWR=COMPATIBLE,DSDCTL_KERNELS=avx2 \
	ONEDNN_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX512_CORE ATEN_CPU_CAPABILITY=avx2 \
	DSDCTL_KERNELS=off

test-numerics: $(VENV)/installed  ## what computes, as on other processors
	for settings in $(NUMERICS); do \
		echo "as with $$settings"; \
		env $$(echo "$$settings" | tr , ' ') $(BIN)/pytest -m 'numerics and not long and not faults' || exit 1; \
	done

faults: $(VENV)/installed  ## signals, full disks, damage, hostile names and archives: half an hour
	$(BIN)/pytest -m faults

KILLS ?= 200

soak: $(VENV)/installed  ## kill runs, and compare what they end in (KILLS=200)
	$(BIN)/python -m tests.soak.soak --kills $(KILLS)

# The second mypy finds calls that macOS lacks.
lint: $(VENV)/installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin

format: $(VENV)/installed  ## mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

KERNELS := dsdctl/ml/kernels/kernels.cpp $(wildcard dsdctl/ml/kernels/kernels_*.h)

$(VENV)/installed: pyproject.toml constraints.txt hatch_build.py $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## remove what the other targets make
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
