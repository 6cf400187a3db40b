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

# Results as JSON, and the pictures drawn from them, in one folder; for the README's own: RESULTS=benchmarks/results
RESULTS ?= build/bench
bench: $(READY)
	mkdir -p $(RESULTS)
	rm -f $(RESULTS)/frames.json
	$(BIN)/python benchmarks/throughput.py --json $(RESULTS)/throughput.json
	$(BIN)/python benchmarks/latency.py --json $(RESULTS)/latency.json
	$(BIN)/python benchmarks/startup.py --rounds 9 --json $(RESULTS)/startup.json
	$(BIN)/python benchmarks/scale.py --rounds 3 --json $(RESULTS)/scale.json
	$(BIN)/python benchmarks/instructions.py --calls 1024 --json $(RESULTS)/instructions.json
	$(BIN)/python benchmarks/frames.py --quiet -p 2 -n 2 -w 1 -o $(RESULTS)/frames.json
	$(BIN)/python benchmarks/host.py --rounds 3 --json $(RESULTS)/host.json
	$(BIN)/python benchmarks/tasks.py --rounds 3 --json $(RESULTS)/tasks.json
	$(BIN)/python benchmarks/store.py --rounds 3 --json $(RESULTS)/store.json
	$(BIN)/python benchmarks/floods.py --seconds 0.5 --json $(RESULTS)/floods.json
	$(BIN)/python benchmarks/pictures.py $(RESULTS)

# All the rounds that the suite runs a few of: calls, hostile bytes, a peer that does not read.
soak: $(READY)
	SEPKIT_SOAK=1 $(BIN)/python -m pytest --timeout 1800 tests/test_peer.py tests/e2e/test_load.py \
		tests/e2e/test_arbitrary_bytes.py tests/test_spec.py tests/wire tests/test_streams.py \
		tests/test_schema_properties.py tests/test_terminal.py tests/test_tasks.py plugins/corporate_proxy/test_app.py \
		plugins/folder_watch/test_app.py tests/host tests/conformance tests/test_tasks_machine.py tests/serving \
		tests/backends tests/capabilities/test_local_fetch.py tests/mcp tests/test_jobs.py tests/test_schedules.py \
		tests/e2e/test_jobs.py $(ARGS)

clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
