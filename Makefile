# The commands of everyday work; `make help` lists them. Only Python 3.11 or later and make are needed.
SHELL := /bin/sh
.DEFAULT_GOAL := help

BIN := .venv/bin
# The newest name that is new enough, unless PYTHON is given.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP = $(BIN)/python -m pip --disable-pip-version-check --no-input
PINNED = $(PIP) install --quiet --no-deps --require-hashes --only-binary :all: --requirement
LOCK = .venv/lock/bin/uv pip compile pyproject.toml --group build --universal --python-version 3.11 --quiet \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links

.PHONY: help install up secrets test test-containers faults properties contract mutations matrix fuzz soak bench lint format lock clean

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F '|' '{ printf "%-22s %s\n", $$1, $$2 }'

install: .venv/installed ## Make the environment in .venv: pinned, hashed dependencies and this package.

up: .venv/installed ## Start everything on this machine: broker, database, feed, streams, sink, API.
	@exec $(BIN)/pulsestream up

secrets: ## Write what docker-compose.kafka.yml needs into .env: a random password for everybody.
	@deploy/secrets.sh .env

# Tests mostly wait for processes: four files at a time, each with a broker of its own, keep two cores busy. The order of
# files stays, with the longest first.
JOBS ?= 4

test: .venv/developer ## Run every test on a real broker and a real database (ARGS="-k name" for some; JOBS=1).
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-containers: .venv/developer ## Build the image and test docker-compose.kafka.yml in containers (Docker with Compose).
	$(BIN)/pytest --containers tests/containers $(ARGS)

faults: .venv/developer ## What `make test` leaves out, and many more kills and stops than it does (ARGS="-k name" for some).
	$(BIN)/pytest --thorough tests/e2e tests/faults $(ARGS)
	$(BIN)/pytest --thorough -m heavy tests/integration $(ARGS)

properties: .venv/developer ## Try each property with ten times as many examples as `make test` does.
	$(BIN)/pytest --thorough -n $(JOBS) --dist loadfile tests/unit $(ARGS)

contract: .venv/developer ## Call every route as the OpenAPI document says, and as it does not, thousands of times (SEED=7 repeats).
	SEED=$(SEED) $(BIN)/pytest --thorough --capture=no tests/contract $(ARGS)

mutations: .venv/developer ## Disable each guard of the product in a copy, and see a test fail (ARGS="--list", ARGS="name").
	$(BIN)/python -m tests.mutations.gate $(ARGS)

matrix: .venv/developer ## Let every fault happen on every exchange again and again, and compare all that is stored.
	$(BIN)/pytest --thorough tests/faults/test_feed_matrix.py $(ARGS)

fuzz: .venv/developer ## Break a million frames on every exchange's language (ARGS="--seed 7" repeats a run).
	$(BIN)/python -m tests.fuzz.venues $(ARGS)

soak: .venv/developer ## Feed 5,000 ticks/s for an hour and watch the producer's memory (SECONDS=900 for less).
	$(BIN)/python -m benchmarks.soak --seconds $(or $(SECONDS),3600)

bench: .venv/developer ## Compare with the alternatives on this machine (ARGS="feed", ARGS=--help for all of them).
	$(BIN)/python -m benchmarks $(or $(ARGS),feed)

lint: .venv/developer ## Check style, format, types and the house's import rules.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/developer ## Format the code and apply safe fixes.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: .venv/created ## Compile requirements/*.txt anew from pyproject.toml (UPGRADE=--upgrade for the newest).
	@test -x .venv/lock/bin/uv || { $(PYTHON) -m venv .venv/lock && .venv/lock/bin/pip install --quiet uv; }
	$(LOCK) $(UPGRADE) --output-file requirements/run.txt
	$(LOCK) $(UPGRADE) --group dev --constraint requirements/run.txt --output-file requirements/dev.txt

clean: ## Remove the environment and every cache (data in .pulsestream stays).
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/created:
	@test -n "$(PYTHON)" || { echo "PulseStream needs Python 3.11 or later, and none was found: install it," \
		"or name it with PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than" \
		"Python 3.11: name a newer one with PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) cannot make virtual environments:" \
		"on Debian, apt-get install python3-venv" >&2; rm -rf .venv; exit 2; }
	@touch $@

.venv/installed: .venv/created requirements/run.txt pyproject.toml
	@echo "Installing pinned dependencies into .venv"
	@$(PINNED) requirements/run.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/developer: .venv/installed requirements/dev.txt
	@echo "Installing pinned developer tools into .venv"
	@$(PINNED) requirements/dev.txt
	@touch $@
