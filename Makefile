# Everything runs in .venv, which is made on first use.  PYTHON may name another interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
LINE_LENGTH := $(shell sed -n 's/^max-line-length = //p' setup.cfg)
TEST_JOBS ?= 2

.PHONY: demo test test-backends test-faults test-cluster lint format bench lock clean

demo: .venv/.installed
	$(BIN)/python -m tf_robustcomp.demo

test: .venv/.test
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --ignore=tests/cluster

test-backends: .venv/.backends
	for backend in jax torch; do \
	  OMP_NUM_THREADS=1 KERAS_BACKEND=$$backend $(BIN)/python -m pytest -m "not tensorflow_only" --ignore=tests/cluster || exit 1; \
	done

test-faults: .venv/.test
	FAULTS=full $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile tests/faults

test-cluster: .venv/.cluster
	$(BIN)/python -m pytest tests/cluster

lint: .venv/.test
	$(BIN)/ruff check --line-length $(LINE_LENGTH)
	$(BIN)/ruff format --check --line-length $(LINE_LENGTH)
	$(BIN)/mypy

format: .venv/.test
	$(BIN)/ruff check --fix --line-length $(LINE_LENGTH)
	$(BIN)/ruff format --line-length $(LINE_LENGTH)

bench: .venv/.bench
	$(BIN)/python -m benchmarks

lock: .venv/.test
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile setup.cfg --all-extras --universal --python-version 3.11 --quiet --upgrade \
	  --custom-compile-command "make lock" --output-file requirements.lock

.venv/.installed: setup.cfg requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint requirements.lock --editable .
	touch $@

.venv/.test: .venv/.installed
	$(BIN)/pip install --quiet --constraint requirements.lock --editable ".[test]"
	touch $@

.venv/.backends: .venv/.test
	$(BIN)/pip install --quiet --constraint requirements.lock --editable ".[test,backends]"
	touch $@

.venv/.cluster: .venv/.test
	$(BIN)/pip install --quiet --constraint requirements.lock --editable ".[test,cluster]"
	touch $@

.venv/.bench: .venv/.test
	$(BIN)/pip install --quiet --constraint requirements.lock --editable ".[test,bench,backends,ray]"
	touch $@

clean:
	rm -rf .venv demo-out
