# Everything runs in .venv, which is made on first use.  PYTHON may name another interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
LINE_LENGTH := $(shell sed -n 's/^max-line-length = //p' setup.cfg)
TEST_JOBS ?= 2
OLDEST_TESTS ?= tests/adversaries tests/backend tests/cli tests/coding tests/commands/test_extending.py \
  tests/compression/test_model.py tests/data tests/pruning/test_dns.py tests/pruning/test_rules.py \
  tests/pruning/test_sparse_file.py tests/runs

.PHONY: demo test test-slow test-thorough test-backends test-faults test-cluster test-oldest docs docs-look dist lint format bench lock clean

demo: .venv/.installed
	$(BIN)/python -m tf_robustcomp.demo

test: .venv/.test
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --ignore=tests/cluster -m "not slow"

test-slow: .venv/.test
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --ignore=tests/cluster -m "slow and not thorough"

# The parameters of which `make test` takes a sample.
test-thorough: .venv/.test
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --ignore=tests/cluster -m thorough

# The lowest versions that setup.cfg promises, in an environment of their own: what touches Keras, files and coders.
test-oldest: .venv-oldest/.installed
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n $(TEST_JOBS) --dist loadfile -m "not slow" $(OLDEST_TESTS)

test-backends: .venv/.backends
	for backend in jax torch; do \
	  OMP_NUM_THREADS=1 KERAS_BACKEND=$$backend $(BIN)/python -m pytest -m "not tensorflow_only" --ignore=tests/cluster || exit 1; \
	done

test-faults: .venv/.test
	FAULTS=full $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile tests/faults

test-cluster: .venv/.cluster
	$(BIN)/python -m pytest tests/cluster

# The site, strictly: no warning and no dead link; build/docs/html/index.html needs no network.
docs: .venv/.docs
	$(BIN)/sphinx-build -q -W --keep-going -c docs . build/docs/html
	$(BIN)/python tools/check_site.py build/docs/html

# Pictures of every page, for the eye; needs Chromium.
docs-look: docs
	$(BIN)/python tools/look_at_docs.py build/docs/html build/docs/look

# Source and wheel for a release: docs/releasing.md.
dist: .venv/.test
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

lint: .venv/.test
	$(BIN)/ruff check --line-length $(LINE_LENGTH)
	$(BIN)/ruff format --check --line-length $(LINE_LENGTH)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.test
	$(BIN)/ruff check --fix --line-length $(LINE_LENGTH)
	$(BIN)/ruff format --line-length $(LINE_LENGTH)

bench: .venv/.bench
	$(BIN)/python -m benchmarks

lock: .venv/.test
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile setup.cfg --all-extras --universal --python-version 3.11 --quiet --upgrade \
	  --custom-compile-command "make lock" --output-file requirements.lock
	$(BIN)/uv pip compile setup.cfg --extra test --resolution lowest-direct --python-version 3.11 --quiet \
	  --custom-compile-command "make lock" --output-file requirements.oldest

.venv/.installed: setup.cfg requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint requirements.lock --editable .
	touch $@

.venv/.test: .venv/.installed
	$(BIN)/pip install --quiet --constraint requirements.lock --editable ".[test,tfmot,onnx]"
	touch $@

.venv/.docs: .venv/.test
	$(BIN)/pip install --quiet --constraint requirements.lock --editable ".[test,tfmot,onnx,docs]"
	touch $@

.venv/.backends: .venv/.test
	$(BIN)/pip install --quiet --constraint requirements.lock --editable ".[test,tfmot,onnx,backends]"
	touch $@

.venv/.cluster: .venv/.test
	$(BIN)/pip install --quiet --constraint requirements.lock --editable ".[test,tfmot,onnx,ray]"
	touch $@

.venv/.bench: .venv/.test
	$(BIN)/pip install --quiet --constraint requirements.lock --editable ".[test,tfmot,onnx,bench,backends,ray]"
	touch $@

.venv-oldest/.installed: setup.cfg requirements.oldest
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --requirement requirements.oldest
	.venv-oldest/bin/pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf .venv .venv-oldest demo-out build dist
