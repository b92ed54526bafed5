# Two commands are all that a fresh machine needs: `make demo` and `make test`.

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
WORKERS ?= 2
ONLY ?=

PY := .venv/bin/python
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check bench docs build clean

help:  ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv with everything inside (TORCH="torch==2.13.0 --index-url …" chooses the build)

# torch comes first and by its exact version: an open range would bring gigabytes of CUDA packages.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make setup needs $(PYTHON); name another with PYTHON=…"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)  ## Train on real handwritten digits from a download to a saved model
	$(PY) examples/train_digits.py

test: $(READY)  ## Run the tests (under 5 minutes)
	$(PY) -m pytest -q -m "not slow" -n $(WORKERS)

test-slow: $(READY)  ## Kills, corruptions, start methods, model zoos (under 20 minutes)
	$(PY) -m pytest -q -m slow -n $(WORKERS)

check: $(READY)  ## Lint, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:  ## Remove everything that can be made again
	rm -rf .venv build dist site demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
