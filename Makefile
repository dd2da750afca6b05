# make install | demo | test | test-all | bench (DATA: the folder of raw data sets).
# Needs Python 3.11+ and make; all else goes to .venv.
PYTHON ?= python3.11
DATA ?= ../shared/data
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Threads of torch that wait asleep: tests start several processes on few cores.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: install demo test test-all lint bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/cellplm demo --out demo-out

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -m 'not slow and not gpu' --cov --cov-report=term:skip-covered -q

test-all: lint
	$(BIN)/python -m pytest --cov -q

bench: $(STAMP)
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/denoise.py $(DATA)

clean:
	rm -rf $(VENV) demo-out build dist *.egg-info
