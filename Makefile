# `make demo` and `make test` set up what they need; both are quick the second time.
PYTHON ?= python3
# More than the two cores that CI has: a test waits for processes a third of its time.
WORKERS ?= 3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all lint bench soak clean

# Set up again only when what the project needs has changed.
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "sepkit needs Python 3.11 or later; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python plugins/demo.py

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# The suite on each supported Python that this machine has.
test-all:
	scripts/test-all

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/host.py
	$(BIN)/python benchmarks/tasks.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/floods.py

# All the rounds that the suite runs a few of: calls, hostile bytes, a peer that does not read.
soak: $(READY)
	SEPKIT_SOAK=1 $(BIN)/python -m pytest --timeout 1800 tests/test_peer.py tests/e2e/test_load.py \
		tests/e2e/test_arbitrary_bytes.py tests/test_spec.py tests/wire tests/test_streams.py \
		tests/test_schema_properties.py tests/test_terminal.py tests/test_tasks.py plugins/corporate_proxy/test_app.py \
		plugins/folder_watch/test_app.py tests/host tests/conformance tests/test_tasks_machine.py tests/serving $(ARGS)

clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
