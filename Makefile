# Thin verbs, no logic. The first use of each makes its own virtual environment.
.PHONY: demo check test test-arm soak fix broker bench clean
PYTHON ?= python3
BIN := .venv/bin
export OPENBLAS_NUM_THREADS := 1

.venv/dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.venv/demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

demo: .venv/demo ## a broker, an aggregator and 8 devices learn to read handwritten digits
	$(BIN)/fedbus demo

check: .venv/dev ## format, lint, types, imports, tests without a broker: some three minutes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n 2 -m 'not broker and not slow'

test: .venv/dev ## everything that is checked
	scripts/ensure-servers
	$(MAKE) check
	$(BIN)/pytest -q -n 2 -m 'slow and not broker' $$(grep -rl mark.slow tests --include='test_*.py')
	scripts/test-tflite
	$(BIN)/pytest -q -n 4 --dist worksteal -m broker $$(grep -rl mark.broker tests --include='test_*.py')

test-arm: .venv/dev ## a device on 32-bit ARM, emulated; as root. Five minutes, the first time fifteen
	scripts/test-arm

soak: .venv/dev ## half an hour: 1,000 real clients, kills and outages, memory watched
	$(BIN)/python -m benchmarks.soak --json soak.json

fix: .venv/dev ## format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

broker: .venv/dev ## the shipped broker configuration, on 127.0.0.1
	$(BIN)/fedbus broker up

bench: .venv/dev ## every measurement: minutes
	$(BIN)/python -m benchmarks all

clean:
	rm -rf .venv .venv-tflite build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
