# `make demo` and `make test` do everything on a fresh machine; both make the environment first.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo-output

.PHONY: demo test lint bench clean

demo: $(READY)
	$(BIN)/freeda build-index freeda/toyworld/examples/captions.parquet --out $(DEMO)/index --overwrite
	$(BIN)/freeda segment freeda/toyworld/examples --classes freeda/toyworld/examples/classes.txt --index $(DEMO)/index --out $(DEMO)/segmented
	@echo "The segmented example images are in $(CURDIR)/$(DEMO)/segmented (open the *.overlay.png files)."

test: lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python benchmarks/toy_quality.py

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(DEMO) dist .pytest_cache .mypy_cache .ruff_cache
