# Thin verbs, no logic. The first use of each makes its own virtual environment.
.PHONY: demo check static test brokers plain others tflite test-arm soak fuzz audit lock locked fix broker bench clean
PYTHON ?= python3
BIN := .venv/bin
CODE := protocol transport device_sdk aggregator simulator fedbus broker_config firmware_scripts \
	benchmarks examples
export OPENBLAS_NUM_THREADS := 1
# Thousands of processes and tests start faster from bytecode, whatever the surroundings prefer.
export PYTHONDONTWRITEBYTECODE :=

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

static: .venv/dev ## format, lint, types, imports, known weaknesses
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -ll -c pyproject.toml -r $(CODE)

check: static ## the same, and tests without a broker
	$(BIN)/pytest -q -n 2 -m 'not broker and not slow'

test: .venv/dev ## everything that is checked; brokers wait much, and what they leave the rest takes
	scripts/ensure-servers
	$(MAKE) --jobs 3 --output-sync=target brokers plain others

brokers: .venv/dev ## tests of real brokers and processes
	$(BIN)/pytest -q -n 4 --dist worksteal -m broker $$(grep -rl mark.broker tests --include='test_*.py')

plain: .venv/dev ## tests without a broker, the long ones too, out of the way of whatever else runs
	nice -n 19 $(BIN)/pytest -q -n 2 --dist worksteal -m 'not broker'

others: .venv/dev ## what needs neither, likewise
	nice -n 19 $(MAKE) static tflite

tflite: .venv/dev ## .tflite files by tflite-runtime, with NumPy 1.26
	scripts/test-tflite

test-arm: .venv/dev ## a device on 32-bit ARM, emulated; as root. Five minutes, the first time fifteen
	scripts/test-arm

soak: .venv/dev ## half an hour: 1,000 real clients, kills and outages, memory watched
	$(BIN)/python -m benchmarks.soak --json soak.json

fuzz: .venv/dev ## every decoder for ten minutes (with atheris where it is installed); finds go to tests/corpus
	$(BIN)/python -m tests.hostile.fuzz --seconds 600

audit: .venv/dev ## known vulnerabilities of what is locked; asks the package index, so it needs the network
	$(BIN)/pip-audit --disable-pip --no-deps --strict -r requirements/dev.lock

lock: ## pin the dev environment by hash, for every platform (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-header --output-file requirements/dev.lock

locked: ## a dev environment of exactly the locked versions
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements/dev.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch .venv/dev

fix: .venv/dev ## format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

broker: .venv/dev ## the shipped broker configuration, on 127.0.0.1
	$(BIN)/fedbus broker up

bench: .venv/dev ## every measurement: minutes
	$(BIN)/python -m benchmarks all

clean:
	rm -rf .venv .venv-tflite build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
