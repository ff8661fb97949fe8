# Everything a clone needs: `make recommend` and `make test` make the environment themselves.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' 2>/dev/null; then echo $$p; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin
PROFILE ?= profiles/sql_analytics.csv
ARGS ?=

.PHONY: help recommend test check bench bench-peers notebooks catalogue profiles clean

help:
	@echo "make recommend   install, then recommend for a shipped profile (PROFILE=profiles/NAME.csv ARGS='--deadline 10m')"
	@echo "make test        install, then run the tests"
	@echo "make check       formatting, lint, types"
	@echo "make bench       measure what docs/benchmarks.md states"
	@echo "make bench-peers measure the strategies beside other projects' optimisers (ARGS='--runs R --candidates C': your tables)"
	@echo "make notebooks   execute the notebooks in place"
	@echo "make catalogue   rebuild the bundled catalogue from its sources"
	@echo "make profiles    measure the shipped profiles again on this machine"

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "making the environment $(VENV) with $(PYTHON)" >&2
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@echo "installing the package" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.made
	@echo "installing the package and its development tools" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.installed $@

recommend: $(VENV)/.installed
	@$(BIN)/recommender recommend $(PROFILE) $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python tools/bench.py $(ARGS)

PEERS ?= .venv-peers

$(PEERS)/.installed: pyproject.toml tools/peers.txt
	@echo "making the environment $(PEERS) with other projects' optimisers" >&2
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -e . -r tools/peers.txt
	@touch $@

bench-peers: $(PEERS)/.installed
	$(PEERS)/bin/python tools/bench_peers.py $(ARGS)

notebooks: $(VENV)/.installed-dev
	$(BIN)/python tools/run_notebooks.py

catalogue: $(VENV)/.installed-dev
	$(BIN)/python tools/build_catalogue.py $(ARGS)

profiles: $(VENV)/.installed-dev
	$(BIN)/python profiles/measure.py $(ARGS)

clean:
	rm -rf $(VENV) $(PEERS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
