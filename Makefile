# Two commands are all that a fresh machine needs: `make demo` and `make test`.

PYTHON ?= python3.11
# On Linux, the index that pip asks by default has torch for CUDA: gigabytes with what it needs. The build for CPUs:
# TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= 2.13.0
TORCH_INDEX ?=
WORKERS ?= 2
ONLY ?=
TO ?= build/pages
BASE ?= /
VERSION ?=
MARK ?= not slow and not browser

TORCH_BUILD = torch==$(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

PY := .venv/bin/python
READY := .venv/.ready
# Groups of development tools (pyproject.toml) need pip 25.1; the one that comes with Python 3.11 is older.
PIP := -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow zoo test-browser test-gpu test-lowest test-with check bench bench-gpu docs publish-docs pictures build clean

help:  ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv with everything inside (TORCH_INDEX=https://download.pytorch.org/whl/cpu: the build for CPUs)

# torch comes first and by its exact version: an open range would bring gigabytes of CUDA packages.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make setup needs $(PYTHON); name another with PYTHON=…"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) $(PIP) 'pip>=25.1'
	$(PY) $(PIP) $(TORCH_BUILD)
	$(PY) $(PIP) -c constraints.txt -e '.[all]' --group dev
	touch $(READY)

demo: $(READY)  ## Train on real handwritten digits from a download to a saved model
	$(PY) examples/train_digits.py

test: $(READY)  ## Run the tests (under 5 minutes)
	$(PY) -m pytest -q -m "not slow and not browser" -n $(WORKERS)

test-slow: .venv/.vision build/pyright/bin/pyright  ## Kills, corruptions, start methods, model zoos (under 20 minutes)
	$(PY) -m pytest -q -m "slow and not browser" -n $(WORKERS)

# One release of torchvision fits one release of torch; beside the rest, since transformers imports it where it can.
.venv/.vision: $(READY)
	$(PY) $(PIP) --no-deps --upgrade --target .venv/vision torchvision==0.28.0 timm==1.0.31
	touch $@

# A checker of types that users have; in a venv of its own, since it brings a JavaScript engine.
build/pyright/bin/pyright:
	$(PYTHON) -m venv build/pyright
	build/pyright/bin/python $(PIP) 'pyright[nodejs]==1.1.414'

# None of these brings what it depends on: nothing that is there already changes.
.venv/.zoo: .venv/.vision
	$(PY) $(PIP) --no-deps --upgrade --target .venv/zoo $(ZOO)
	touch $@

ZOO = diffusers==0.42.1 importlib_metadata==10.2.0 lazy-importer==0.1.0 segmentation-models-pytorch==0.6.0 \
  torch-geometric==2.8.1 xxhash==4.1.0 monai==1.6.1 einops==0.8.2 peft==0.21.2

zoo: .venv/.zoo  ## Look at about 150 real architectures and store the table benchmarks/results/zoo.csv (minutes; ONLY=words)
	$(PY) -m benchmarks.zoo $(ONLY)

test-browser: .venv/.browser  ## The interactive page in headless Chromium (installed by apt-get where that is there)
	$(PY) -m pytest -q -m browser tests/browser

.venv/.browser: $(READY)
	$(PY) $(PIP) -c constraints.txt --group browser
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || ! command -v apt-get >/dev/null \
	  || { apt-get update -qq && apt-get install -y -qq chromium chromium-driver; } >/dev/null \
	  || echo "chromium could not be installed: the tests of the page will say why they are skipped"
	touch $@

test-gpu: $(READY)  ## What CUDA decides, where there is a GPU; writes benchmarks/results/gpu_tests.json
	$(PY) -m tests.gpu

# The tests' own tools come first, then the package pulls its dependencies down to the floors.
test-lowest:  ## The fast tests with the oldest dependencies that are claimed, in a venv of their own
	rm -rf build/lowest
	$(PYTHON) -m venv build/lowest/venv
	build/lowest/venv/bin/python $(PIP) 'pip>=25.1'
	build/lowest/venv/bin/python $(PIP) $(TORCH_BUILD)
	build/lowest/venv/bin/python $(PIP) -c constraints.txt --group test
	build/lowest/venv/bin/python $(PIP) -c constraints-lowest.txt '.[http]'
	build/lowest/venv/bin/python -m pip check
	mkdir build/lowest/tests && cp -r tests pyproject.toml build/lowest/tests/
	cd build/lowest/tests && ../venv/bin/python -m pytest -q -m "not slow and not browser" -n $(WORKERS) -p no:cacheprovider

# One release of torch in a venv of its own, the newest of everything else that fits it: gigabytes, so no part of `.ci/run`.
test-with:  ## The fast tests on another Python and torch: make test-with PYTHON=python3.12 TORCH=2.6.0 (MARK=slow for the slow ones)
	$(eval VENV := build/torch-$(TORCH)-$(notdir $(PYTHON)))
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) 'pip>=25.1'
	$(VENV)/bin/python $(PIP) $(TORCH_BUILD)
	$(VENV)/bin/python $(PIP) -e . --group test
	$(VENV)/bin/python -m pytest -q -m "$(MARK)" -n $(WORKERS) -p no:cacheprovider

check: $(READY)  ## Lint, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Timings wait for nobody else: run this on a quiet machine.
bench: .venv/.bench  ## Measure against the peers, draw docs/benchmarks.md (under 15 minutes; ONLY=summary for one subject)
	$(PY) -m benchmarks $(ONLY)

bench-gpu: $(READY)  ## Several devices on this machine's GPUs; writes benchmarks/results/gpu.json
	$(PY) -m benchmarks.gpu

.venv/.bench: $(READY)
	$(PY) $(PIP) -c constraints.txt --group bench
	touch $@

docs: .venv/.docs  ## Build the documentation into site/, and look whether it is complete
	$(PY) -m sphinx -q -W --keep-going -b html docs site
	$(PY) -m pytest -q tests/test_docs_pages.py

# One folder a version, the list of them beside: how to publish stands in CONTRIBUTING.md.
publish-docs: .venv/.docs  ## Put the documentation into a folder of versions: make publish-docs TO=../pages BASE=/torchkutils/
	$(PY) docs/publish.py $(TO) --base $(BASE) $(if $(VERSION),--as $(VERSION))

pictures: $(READY)  ## Draw the pictures of docs/gallery.md anew
	$(PY) docs/gallery.py

.venv/.docs: $(READY)
	$(PY) $(PIP) -c constraints.txt --group docs
	touch $@

# The wheel is tested where the sources are not: its own venv, the tests copied beside it.
build: $(READY)  ## Make wheel and sdist, and run the tests against the wheel in a clean venv
	rm -rf dist build/venv build/tests
	$(PY) -m build --outdir dist .
	$(PYTHON) -m venv build/venv
	build/venv/bin/python $(PIP) 'pip>=25.1'
	build/venv/bin/python $(PIP) $(TORCH_BUILD)
	build/venv/bin/python $(PIP) -c constraints.txt dist/*.whl
	build/venv/bin/python -m pip check
	build/venv/bin/python $(PIP) -c constraints.txt --group test
	mkdir build/tests && cp -r tests pyproject.toml build/tests/
	cd build/tests && ../venv/bin/python -m pytest -q -m "not slow and not browser" -n $(WORKERS) -p no:cacheprovider

clean:  ## Remove everything that can be made again
	rm -rf .venv build dist site jupyter_execute docs/reference docs/*.rst docs/*.txt demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
