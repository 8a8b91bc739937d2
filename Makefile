# A fresh clone needs Python 3.11 or newer and make: the first target builds .venv, once per change of what is required.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PYTEST_WORKERS ?= 2

# One torch thread per process: two under contention were measured up to 8 times slower than one.
export OMP_NUM_THREADS := 1

.PHONY: quickstart test matrix lint study

quickstart: $(INSTALLED)
	$(BIN)/yarbus quickstart

# Hours on two cores; goes on where it was interrupted, and commits each finished part under results.
study: $(INSTALLED)
	$(BIN)/python -m results.study
	$(BIN)/python -m results.methods
	$(BIN)/python -m results.heads

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile

# Every method on every small model: about an hour of two cores. Goes on where it was interrupted.
matrix: $(INSTALLED)
	$(BIN)/python -m tests.matrix.run --jobs $(PYTEST_WORKERS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy yarbus

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
