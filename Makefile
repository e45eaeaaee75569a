# Every target works on a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-long test-numerics coverage faults soak lint format docs reference lock clean

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

coverage: $(VENV)/installed  ## the default suite, and which lines it runs: build/coverage
	mkdir -p build
	$(BIN)/pytest --cov --cov-report=term:skip-covered --cov-report=html --cov-report=xml

faults: $(VENV)/installed  ## signals, full disks, damage, hostile names and archives: half an hour
	$(BIN)/pytest -m faults

KILLS ?= 200

soak: $(VENV)/installed  ## kill runs, and compare what they end in (KILLS=200)
	$(BIN)/python -m tests.soak.soak --kills $(KILLS)

# The second mypy finds calls that macOS lacks.
lint: $(VENV)/installed  ## ruff, mypy, and checks of the workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --offline --quiet .github

format: $(VENV)/installed  ## mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed  ## build the pages in docs/ strictly, into build/site
	$(BIN)/mkdocs build

reference: $(VENV)/installed  ## write again what of docs/ is generated
	$(BIN)/dsdctl schema --markdown > docs/reference.md
	$(BIN)/dsdctl schema cli --markdown > docs/cli.md
	$(BIN)/python docs/glossary_figure.py docs/glossary.svg

# The comment at the head of the file stays.
lock:  ## write requirements.lock again, from a fresh environment
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --constraint constraints.txt '.[dev]'
	sed -i.old '/^[^#]/d' requirements.lock && rm requirements.lock.old
	build/lock/bin/pip freeze --exclude dsdctl | sed 's/+cpu$$//' >> requirements.lock

KERNELS := dsdctl/ml/kernels/kernels.cpp $(wildcard dsdctl/ml/kernels/kernels_*.h)

$(VENV)/installed: pyproject.toml constraints.txt hatch_build.py $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## remove what the other targets make
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
