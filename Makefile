# Everything runs in a virtual environment of its own, .venv; the oldest Keras that is
# claimed in another, .venv-oldest (its TensorFlow needs Python 3.11 or 3.12), the next
# one in .venv-nightly.
PYTHON ?= python3
BACKENDS := tensorflow jax torch
RUN := TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/
# Two at a time: most tests wait for one core. Whoever is done takes tests of the other.
PYTEST := python -m pytest --numprocesses 2 --dist worksteal
# All that one machine can show on one backend; PyTorch compiles nothing.
ALONE := --needs every_backend --needs one_backend --needs no_backend

# The core: what a model's trace, plan, tap and store do, on one backend.
CORE := tests/tracing/test_collect.py tests/planning/test_planner.py \
    tests/pipeline/test_save.py tests/results/training/test_batches.py

# What may break with another release of Keras.
KERAS := tests/tracing tests/zoo tests/planning/test_split.py \
    tests/planning/test_split_refusals.py \
    tests/planning/test_submodels.py tests/inputs/test_model_file_trust.py \
    tests/pipeline/test_tap_distribution.py

# What other Pythons run, with the backend and what `core` of the dependency groups has.
PYTHONS := 3.12 3.13
OTHER_PYTHONS := $(CORE) tests/core tests/effects tests/store/format \
    tests/tracing/test_hooks.py tests/tracing/test_row_flow.py tests/package \
    tests/test_errors.py tests/test_names.py

KILLS ?= 200

# Tests on JAX compile far more than they compute. Campaigns, and tests with the oldest
# Keras, run what XLA optimizes.
JAX := KERAS_BACKEND=jax XLA_FLAGS=--xla_backend_optimization_level=0 $(RUN)

# Tests start hundreds of programs: each would compile our modules again.
unexport PYTHONDONTWRITEBYTECODE

# Its tests, which have small configurations, are in its repository alone.
HUB ?= https://github.com/keras-team/keras-hub
HUB_COMMIT := 71453d08f59edc90d276e999319fc51e61cbf82c

.PHONY: demo check test test-torch test-ray test-campaigns test-campaigns-ray \
    test-oldest test-nightly test-hub test-pythons $(PYTHONS:%=test-python-%) package \
    newcomer coverage crash bench bench-quick lint docs format clean

demo: .venv/ready-demo  ## Train a small network, save its branches, check them
	KERAS_BACKEND=$${KERAS_BACKEND:-jax} $(RUN)layertap demo

check: lint .venv/ready-test  ## For every edit: style, types, quick tests, the core
	KERAS_BACKEND=jax $(RUN)$(PYTEST) --needs no_backend -m "not slow"
	KERAS_BACKEND=torch $(RUN)$(PYTEST) -m "not slow" $(CORE)

test: .venv/ready-test  ## The suite, on all three backends
	@echo "== Keras on JAX"
	$(JAX)$(PYTEST) --needs every_backend --needs processes
	@echo "== Keras on TensorFlow"
	KERAS_BACKEND=tensorflow $(RUN)$(PYTEST) --needs every_backend
	@$(MAKE) --no-print-directory --jobs 2 test-torch test-ray

test-torch: .venv/ready-test
	@echo "== Keras on PyTorch, what one backend shows for all, and what needs none"
	KERAS_BACKEND=torch $(RUN)$(PYTEST) $(ALONE)

# Its workers wait for each other, which leaves a quarter of the processors to PyTorch.
test-ray: .venv/ready-test
	@echo "== on Ray"
	$(JAX)python -m pytest --needs ray

test-campaigns: .venv/ready-test  ## All cases of the campaigns; the suite runs a share
	KERAS_BACKEND=jax $(RUN)$(PYTEST) --campaigns --needs every_backend --needs processes
	KERAS_BACKEND=tensorflow $(RUN)$(PYTEST) --campaigns --needs every_backend
	KERAS_BACKEND=torch $(RUN)$(PYTEST) --campaigns $(ALONE)

test-campaigns-ray: .venv/ready-test  ## The same on Ray: nodes, drivers and workers are lost
	KERAS_BACKEND=jax $(RUN)python -m pytest --campaigns --needs ray

coverage: .venv/ready-test  ## The lines that quick tests on PyTorch run
	KERAS_BACKEND=torch $(RUN)$(PYTEST) $(ALONE) -m "not slow" --cov --cov-report=term

test-oldest: .venv-oldest/ready  ## Tracing and splitting with the oldest Keras, on all three
	set -e; for backend in $(BACKENDS); do \
	  echo "== the oldest Keras, on $$backend"; \
	  KERAS_BACKEND=$$backend TF_CPP_MIN_LOG_LEVEL=3 .venv-oldest/bin/$(PYTEST) \
	    $(KERAS); \
	done

# It goes through all backends, and fails at the end if one did.
test-nightly: .venv-nightly/ready  ## The same with the next Keras, as it was last night
	.venv-nightly/bin/python -m pip install --quiet --upgrade --group nightly
	failed=; for backend in $(BACKENDS); do \
	  echo "== the next Keras, on $$backend"; \
	  KERAS_BACKEND=$$backend TF_CPP_MIN_LOG_LEVEL=3 .venv-nightly/bin/$(PYTEST) \
	    $(KERAS) || failed="$$failed $$backend"; \
	done; test -z "$$failed"

test-hub: .venv-hub/ready  ## Compare joins of published architectures, on all three
	set -e; for backend in $(BACKENDS); do \
	  KERAS_BACKEND=$$backend TF_CPP_MIN_LOG_LEVEL=3 .venv-hub/bin/python \
	    -m tests.zoo.keras_hub .venv-hub/source .venv-hub/$$backend.jsonl; \
	done

# A Python that is not on this machine is named, and left out.
test-pythons:  ## The core with the newest JAX, on the other Pythons that are supported
	@for version in $(PYTHONS); do \
	  if PYENV_VERSION=$$version python$$version -c "" 2>/dev/null; \
	  then $(MAKE) --no-print-directory test-python-$$version || exit 1; \
	  else echo "== Python $$version is absent: nothing was tested on it"; fi; \
	done

$(PYTHONS:%=test-python-%): test-python-%: .venv-%/ready
	@echo "== Python $*, with JAX"
	$(JAX:.venv/bin/=.venv-$*/bin/)$(PYTEST) -m "not slow" --needs every_backend \
	  --needs no_backend $(OTHER_PYTHONS)

package: .venv-package/ready  ## Build the wheel, check it, and use it in an empty environment
	.venv-package/bin/python -m tests.package.wheel

newcomer:  ## Install the wheel, follow the quickstart and guides, and time each step
	$(PYTHON) -m tests.package.newcomer

crash: .venv/ready-test  ## Kill saves at random moments, so many on each backend
	set -e; for backend in $(BACKENDS); do \
	  KERAS_BACKEND=$$backend $(RUN)python -m tests.crash.campaign \
	    --kills $(KILLS); \
	done

bench: .venv/ready-test .venv-keract/ready .venv-thingsvision/ready  ## Measure, and write docs/performance*.md
	$(RUN)python -m benchmarks --json docs/performance.json --report docs

bench-quick: .venv/ready-test  ## The same in little, to see that it works
	$(RUN)python -m benchmarks --quick --json .pytest_cache/bench.json \
	  --report .pytest_cache/bench

lint: .venv/ready-lint .venv/imports-with-types.toml  ## Style, types, and the direction of imports
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/basedpyright
	.venv/bin/lint-imports pyproject.toml .venv/imports-with-types.toml

# The same contracts, with type-checking imports counted, too.
.venv/imports-with-types.toml: pyproject.toml | .venv/bin/python
	sed "s/^exclude_type_checking_imports = true/exclude_type_checking_imports = false/" \
	  $< > $@

docs: .venv-docs/ready  ## Build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --quiet --clean

format: .venv/ready-lint  ## Put the code into its form
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

clean:  ## Remove what was made here
	rm -rf .venv .venv-* build layertap-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	  .import_linter_cache .coverage*

.venv/bin/python .venv-oldest/bin/python .venv-nightly/bin/python .venv-docs/bin/python \
$(PYTHONS:%=.venv-%/bin/python) .venv-package/bin/python \
.venv-hub/bin/python .venv-keract/bin/python \
.venv-thingsvision/bin/python: %/bin/python:
	$(PYTHON) -m venv $*
	$@ -m pip install --quiet "pip>=25.1"

# pyenv, where it is, selects the Python by the variable.
.venv-3.12/bin/python: PYTHON = PYENV_VERSION=3.12 python3.12
.venv-3.13/bin/python: PYTHON = PYENV_VERSION=3.13 python3.13

.venv/ready-demo: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet --editable ".[jax,demo]"
	touch $@

.venv/ready-test: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet --group test --editable .
	touch $@

.venv/ready-lint: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet --group lint --editable .
	touch $@

.venv-docs/ready: pyproject.toml | .venv-docs/bin/python
	.venv-docs/bin/python -m pip install --quiet --group docs
	touch $@

$(PYTHONS:%=.venv-%/ready): .venv-%/ready: pyproject.toml | .venv-%/bin/python
	.venv-$*/bin/python -m pip install --quiet --group core --editable ".[jax]"
	touch $@

.venv-package/ready: pyproject.toml | .venv-package/bin/python
	.venv-package/bin/python -m pip install --quiet --group package
	touch $@

# Peers, which want other releases of Keras. The second takes some gigabytes.
.venv-keract/ready: | .venv-keract/bin/python
	.venv-keract/bin/python -m pip install --quiet keract==4.5.2 tf_keras \
	  tensorflow-cpu scikit-learn pillow
	touch $@

.venv-thingsvision/ready: | .venv-thingsvision/bin/python
	.venv-thingsvision/bin/python -m pip install --quiet thingsvision==2.7.3
	touch $@

.venv-oldest/ready: pyproject.toml | .venv-oldest/bin/python
	.venv-oldest/bin/python -m pip install --quiet --group oldest --editable .
	touch $@

# TensorFlow wants Keras under its own name: both have the same files, so that one goes.
.venv-nightly/ready: pyproject.toml | .venv-nightly/bin/python
	.venv-nightly/bin/python -m pip install --quiet --group test --editable .
	.venv-nightly/bin/python -m pip uninstall --quiet --yes keras keras-nightly
	touch $@

.venv-hub/ready: pyproject.toml | .venv-hub/bin/python
	.venv-hub/bin/python -m pip install --quiet --group hub --editable .
	.venv-hub/bin/python -m pip install --quiet --no-deps keras-hub==0.32.0
	git init --quiet .venv-hub/source
	git -C .venv-hub/source fetch --quiet --depth 1 $(HUB) $(HUB_COMMIT)
	git -C .venv-hub/source checkout --quiet FETCH_HEAD
	touch $@
