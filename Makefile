# `make demo` and `make test` do everything on a fresh machine; both make the environment first.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo-output
EXAMPLES := freeda/toyworld/examples

.PHONY: demo test lint browser docs bench clean

demo: $(READY)
	$(BIN)/freeda build-index $(EXAMPLES)/captions.parquet --out $(DEMO)/index --overwrite
	$(BIN)/freeda segment $(EXAMPLES) --classes $(EXAMPLES)/classes.txt --index ./$(DEMO)/index --out $(DEMO)/segmented
	@echo
	@echo "Look at"
	@echo "  $(DEMO)/segmented/*.overlay.png   six scenes the models have not seen, in 50 classes"
	@echo "  $(DEMO)/index/report.html         the generated images, and where each noun was found in them"
	@echo "Then try"
	@echo "  $(BIN)/freeda segment $(EXAMPLES)/scene-5.png --classes 'owl; car; water' --explain all --out $(DEMO)/why"
	@echo "  $(BIN)/freeda segment $(EXAMPLES)/scene-6.png --classes 'pig; car; rabbit' --background --out $(DEMO)/things"
	@echo "  $(BIN)/freeda serve   a page: your own images, why a pixel has its class, what an index holds"
	@echo "  $(BIN)/freeda evaluate toyworld --limit 20 --out $(DEMO)/figures"

test: lint browser
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The tests of the page drive a real browser.
browser:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || echo "Chromium cannot be installed; the tests of the page are skipped"; \
	else echo "Chromium is not installed; the tests of the page are skipped"; fi

# The documentation as a site, in site/.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html"

bench: $(READY)
	$(BIN)/python benchmarks/toy_quality.py

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(DEMO) site dist .pytest_cache .mypy_cache .ruff_cache
