# The two commands that matter, `make demo` and `make test`, do their own set-up the first time.
PYTHON ?= python3
VENV ?= .venv
DEMO_OUTPUT ?= runs/demo
DEMO_ARGS ?=
PYTEST_ARGS ?=
FAULTS_ARGS ?= --trials 100
WORKERS ?= 2
# Environments of other versions: the oldest supported ones, and the newest, pre-releases included.
VENV_MIN ?= .venv-min
VENV_NEW ?= .venv-new
VENV_PACKAGE ?= .venv-package
NEWEST ?= --pre

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_MIN := $(VENV_MIN)/.installed
# Two processes on two cores: a thread pool in each would only make them wait for one another. The demo has one process,
# but small steps: on a busy machine with two cores, two threads took five times as long as one.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install demo test mixins test-min test-new package test-fast test-stress faults docs pictures bench bench-full lint format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## create .venv and install what was tested (the other commands do it by themselves)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

demo: $(INSTALLED)  ## fine-tune a small CLIP as a β-CLIP and plainly, and compare them (DEMO_OUTPUT, DEMO_ARGS)
	$(ONE_THREAD) $(BIN)/python examples/demo.py --output $(DEMO_OUTPUT) $(DEMO_ARGS)

test: lint mixins  ## lint, types, doctests and all tests but the stress tests (PYTEST_ARGS, WORKERS)
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses $(WORKERS) -m "not stress" $(PYTEST_ARGS)

mixins: $(INSTALLED)  ## download transformers' own tests of models and processors into the user's cache; `make test` does it
	@PYTHONPATH=tests $(BIN)/python -m integration.mixins.fetch

test-fast: $(INSTALLED)  ## the quick tests only, for the inner loop; not the demo, whose import of Gradio is slow (PYTEST_ARGS, WORKERS)
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses $(WORKERS) -m "not slow and not stress" \
		--ignore=tests/demo --ignore=src/beta_clip_hf/demo $(PYTEST_ARGS)

# The demo is left out of the oldest: Gradio asks for newer versions.
$(INSTALLED_MIN): setup.cfg pyproject.toml constraints-min.txt
	$(PYTHON) -m venv $(VENV_MIN)
	$(VENV_MIN)/bin/python -m pip install --constraint constraints-min.txt \
		--editable '.[train,text,eval,onnx,search,completion,test]'
	@touch $@

test-min: $(INSTALLED_MIN)  ## the quick tests and transformers' own with the oldest supported versions, in .venv-min (PYTEST_ARGS, WORKERS)
	@PYTHONPATH=tests $(VENV_MIN)/bin/python -m integration.mixins.fetch
	$(ONE_THREAD) $(VENV_MIN)/bin/python -m pytest --numprocesses $(WORKERS) -m "(not slow or mixins) and not stress" \
		--ignore=tests/demo --ignore=src/beta_clip_hf/demo $(PYTEST_ARGS)

test-new:  ## the same with the newest versions, pre-releases included, in .venv-new (NEWEST= leaves pre-releases out)
	test -d $(VENV_NEW) || $(PYTHON) -m venv $(VENV_NEW)
	$(VENV_NEW)/bin/python -m pip install --upgrade --upgrade-strategy eager $(NEWEST) \
		--editable '.[train,text,eval,onnx,search,completion,test]'
	@PYTHONPATH=tests $(VENV_NEW)/bin/python -m integration.mixins.fetch
	$(ONE_THREAD) $(VENV_NEW)/bin/python -m pytest --numprocesses $(WORKERS) -m "(not slow or mixins) and not stress" \
		--ignore=tests/demo --ignore=src/beta_clip_hf/demo $(PYTEST_ARGS)

package:  ## build the sdist and the wheel into dist/, check them, and use the wheel in a new .venv-package
	rm -rf dist
	$(PYTHON) -m venv --clear $(VENV_PACKAGE)
	$(VENV_PACKAGE)/bin/python -m pip install build twine
	$(VENV_PACKAGE)/bin/python -m build
	$(VENV_PACKAGE)/bin/python -m twine check --strict dist/*
	$(VENV_PACKAGE)/bin/python -m pip install --constraint constraints.txt dist/*.whl
	$(VENV_PACKAGE)/bin/python -I tests/installed_package.py

test-stress: $(INSTALLED)  ## the tests that take minutes (PYTEST_ARGS, WORKERS)
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses $(WORKERS) -m stress $(PYTEST_ARGS)

faults: $(INSTALLED)  ## kill trainings at random and resume them; the figures go into docs/reliability.md (FAULTS_ARGS, minutes to hours)
	$(ONE_THREAD) $(BIN)/python tests/faults/kills.py --write docs/reliability.md $(FAULTS_ARGS)

docs: $(INSTALLED)  ## build the documentation with its API reference into site/ (open site/index.html, or serve it for the search)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pictures: $(INSTALLED)  ## draw the pictures of the documents anew, with the models that ship
	$(BIN)/python benchmarks/scenes_gallery.py
	$(BIN)/python benchmarks/before_after.py
	$(BIN)/python benchmarks/scene_regions.py
	$(BIN)/python tests/demo/browser.py docs/images

bench: $(INSTALLED)  ## the training step and the losses against their plain twins, on a small model (minutes)
	$(BIN)/python benchmarks/training_step.py --preset quick
	$(BIN)/python benchmarks/tiled_loss.py --texts 4096
	$(BIN)/python benchmarks/score_pairs.py
	$(BIN)/python benchmarks/step_switches.py --preset quick
	$(BIN)/python benchmarks/hierarchy.py
	$(BIN)/python benchmarks/data_speed.py
	$(BIN)/python benchmarks/peers.py
	$(ONE_THREAD) $(BIN)/python benchmarks/weak_scaling.py

bench-full: $(INSTALLED)  ## the same with ViT-B/16 and 16,384 texts (8 GB, tens of minutes without a GPU)
	$(BIN)/python benchmarks/training_step.py --preset full
	$(BIN)/python benchmarks/tiled_loss.py --texts 4096
	$(BIN)/python benchmarks/tiled_loss.py --texts 16384 --memory
	$(BIN)/python benchmarks/score_pairs.py --images 1000 --texts 1000 --turns 50
	$(BIN)/python benchmarks/step_switches.py --preset full --also compiled
	$(BIN)/python benchmarks/hierarchy.py
	$(BIN)/python benchmarks/data_speed.py
	$(BIN)/python benchmarks/peers.py --preset full
	$(ONE_THREAD) $(BIN)/python benchmarks/weak_scaling.py
	$(ONE_THREAD) $(BIN)/python benchmarks/contrast_size.py

lint: $(INSTALLED)  ## style and types, without running anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment, caches and builds (runs/ stays)
	rm -rf $(VENV) $(VENV_MIN) $(VENV_NEW) $(VENV_PACKAGE) build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
