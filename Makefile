# Hearth. Needs python3 >= 3.11 with venv, and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Installed again when pyproject.toml has changed, and only then.
STAMP := $(shell sha256sum pyproject.toml | cut -c1-16)
RUN := .venv/.run-$(STAMP)
DEV := .venv/.dev-$(STAMP)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help check demo up test test-cgroup-v2 bench soak lint fmt docs clean

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: $(RUN) ## deploy the examples to a fresh node, call each, print a table, stop
	@$(BIN)/python examples/demo.py

up: $(RUN) ## start a node on port 8080
	@exec $(BIN)/hearth up

test: $(DEV) ## run the whole test suite (ARGS='tests/cli -x' for a part of it)
	$(BIN)/pytest $(ARGS)

test-cgroup-v2: $(DEV) ## run the sandbox suites in a guest that has cgroup v2 only (needs QEMU)
	$(BIN)/python tests/guest/run.py $(ARGS)

bench: $(DEV) ## measure what docs/benchmarks.md shows (ARGS=--quick for a short run)
	$(BIN)/python bench/run.py $(ARGS)

soak: $(DEV) ## run under load for long, watching for leaks
	$(BIN)/python bench/soak.py $(ARGS)
	$(BIN)/python bench/leak.py

lint: $(DEV) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(DEV) ## format the code and sort its imports
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(RUN) ## write the generated part of docs/configuration.md again
	$(BIN)/python -m hearth.cli.reference docs/configuration.md

clean: ## remove what make made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache
	find src tests bench examples -name __pycache__ -prune -exec rm -rf {} +

check:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "missing: $(PYTHON) (3.11 or newer). Install it: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "too old: $$($(PYTHON) --version); Hearth needs Python 3.11 or newer." \
	    "Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "missing: venv of $(PYTHON). Install it: apt-get install python3-venv" >&2; exit 1; }

# pip is the last thing that venv puts there: an interrupted venv is made again.
.venv/bin/pip: | check
	$(PYTHON) -m venv .venv

$(RUN): pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --editable .
	@rm -f .venv/.run-* && touch $@

$(DEV): $(RUN)
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' >.venv/dev.txt
	$(BIN)/pip install --quiet --requirement .venv/dev.txt
	@rm -f .venv/.dev-* && touch $@
