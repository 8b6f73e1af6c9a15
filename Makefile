# Everything runs in .venv, which the first target that needs it makes. PYTHON names an interpreter to prefer;
# AIRFLOW=3.4 stands for the other Airflow that edge-ws runs with, which has an environment of its own.

AIRFLOW ?= 3.3
export AIRFLOW
# Even where the shell forbids compiled files: each of hundreds of processes would compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv$(if $(filter-out 3.3,$(AIRFLOW)),-$(AIRFLOW))/bin
ARGS ?=

.PHONY: help install demo test quick pages simulate chaos noisy fuzz parity bench check format wheel constraints clean

help:
	@echo "make demo         run a real Airflow, a worker and one DAG on this machine (KEEP=1: leave it up)"
	@echo "make test         run all tests (ARGS='-k name' and the like go to pytest)"
	@echo "make quick        run the tests that start no process of their own"
	@echo "make simulate     run 50,000 simulated histories, about 25 minutes (SEEDS=n: that many; SEED=n: that one)"
	@echo "make chaos        200 rounds of faults on real processes, about 35 minutes (ROUNDS=n: that many; CHAOS_SEED=n)"
	@echo "make noisy        flood a real gateway with every frame, and judge by what another worker feels, about 9 minutes"
	@echo "make fuzz         a million odd messages for codec, sessions and a gateway's entrances, about 20 minutes (FUZZ=n: that many)"
	@echo "make parity       run the same DAGs on LocalExecutor and on edge-ws and compare, about an hour (ONLY=name: some)"
	@echo "make bench        measure edge-ws beside edge3 (ARGS='--quick', '--only ROW', '--no-edge3')"
	@echo "make check        ruff, mypy --strict, import-linter"
	@echo "make format       let ruff format and mend what it can"
	@echo "make pages        write the tables of edge_ws/SETTINGS.md from the code"
	@echo "make install      make .venv, which every target does when it is not there"
	@echo "make wheel        build the wheel into dist/"
	@echo "make constraints  resolve both constraints files anew after a change of pyproject.toml (needs uv)"
	@echo "make clean        remove .venv and all that was built"
	@echo "AIRFLOW=3.4       after any of them but constraints and clean: with Airflow 3.4, in .venv-3.4"

install:
	@.ci/install

demo: install
	@$(BIN)/edge-ws demo $(if $(filter-out 0,$(KEEP)),--keep)

# Three at a time, a file each: most of them wait. ARGS='-n 0' for one after the other.
test:
	@.ci/install --edge3
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# What no fixture or folder marks as starting a process; on SQLite and one PostgreSQL.
quick: export SEEDS := 200
quick:
	@.ci/install --edge3
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not system and not processes" $(ARGS)

pages: install
	@$(BIN)/python -m tests.support.settings_page

SEEDS ?= 50000
simulate: install
	@SEEDS=$(SEEDS) $(if $(SEED),SEED=$(SEED)) $(BIN)/python -m pytest tests/simulation -k 'history or once' -p no:cacheprovider $(ARGS)

ROUNDS ?= 200
chaos: install
	@ROUNDS=$(ROUNDS) $(if $(CHAOS_SEED),CHAOS_SEED=$(CHAOS_SEED)) $(BIN)/python -m pytest tests/chaos -s $(ARGS)

noisy: install
	@NOISY=10 $(BIN)/python -m pytest tests/server/test_noisy_neighbour.py -n 0 -s -o timeout=1800 $(ARGS)

FUZZ ?= 1000000
fuzz: install
	@FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/fuzz -o timeout=0 $(ARGS)

parity: install
	@PARITY=long $(if $(ONLY),ONLY=$(ONLY)) $(BIN)/python -m pytest tests/parity -s -p no:randomly $(ARGS)

# Nothing else should run on the machine meanwhile.
bench:
	@.ci/install --bench
	@$(BIN)/python -m tests.bench $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: install
	$(BIN)/python -m build --no-isolation --wheel

# edge3 is only unpacked for the tests that run the real one; it is pinned with the rest. What the two files pin
# in common stays equal: the second begins as a copy of the first.
EDGE3 = apache-airflow-providers-edge3==5.1.0
PINNED_3.3 = apache-airflow==3.3.2 apache-airflow-task-sdk==1.3.2 $(EDGE3) cadwyn==7.0.0
PINNED_3.4 = apache-airflow==3.4.0b2 apache-airflow-task-sdk==1.4.0b2 $(EDGE3) cadwyn==7.0.0
RESOLVE = uv pip compile -q --universal --no-header --no-annotate --python-version 3.11 --all-extras pyproject.toml -
constraints:
	@printf '%s\n' $(PINNED_3.3) | $(RESOLVE) -o constraints.txt
	@cp constraints.txt constraints-3.4.txt
	@printf '%s\n' $(PINNED_3.4) | $(RESOLVE) -o constraints-3.4.txt

clean:
	rm -rf .venv .venv.* .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find edge_ws migrations tests examples -name __pycache__ -prune -exec rm -rf {} +
