# Two commands for a newcomer: `make demo` and `make test`. Each makes the environment it needs.
PYTHON ?= python3
TORCH_SPEC ?= torch==2.13.0
TORCH_INDEX_URL ?=
OIDC_PROVIDER := 9.13.3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
PACKAGES := $(VENV)/packages-installed
STAMP := $(VENV)/installed

# Processes that share the tests between them.
PROCESSES ?= 2
# Each keeps files whole, so that what a file builds is built once, and takes tests from the other at the end.
SHARED = --numprocesses $(PROCESSES) --dist worksteal

# make demo takes: DATA=<folder of sites> TASK=classification|segmentation ARGS="--kill hospital-3@2 ..."
DATA ?=
MINUTES ?= 10
# For each of the two doors in make test-all.
FUZZ_MINUTES ?= 2
TASK ?=
ARGS ?=

# Tests start dozens of processes; without compiled files each of them would compile the house anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install install-aggregator deploy-tools oidc-provider demo seed-mnist seed-vision seed-xray seed-mri test test-all check lint types kernel bench soak mutants site release bundle audit doctor lock clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

install: $(STAMP) ## Make .venv and install the locked packages (again only when the lock changes)

$(PACKAGES): requirements/lock.txt requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "MedVeil needs Python 3.11 or newer. Name one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python cannot make virtual environments. On Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) --constraint requirements/constraints.txt "$(TORCH_SPEC)"
	$(PIP) --require-hashes --no-deps -r requirements/lock.txt
	@touch $@

$(STAMP): $(PACKAGES) pyproject.toml
	$(PIP) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import torch; print("installed: torch", torch.__version__ + ", CUDA:", "yes" if torch.cuda.is_available() else "no")'
	@touch $@

install-aggregator: ## Make .venv for an aggregator alone: no PyTorch, with PostgreSQL, buckets and a cluster (400 MB)
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) --require-hashes --no-deps -r requirements/build.txt -r requirements/aggregator.txt
	$(PIP) --no-deps --no-build-isolation .

deploy-tools: $(VENV)/deploy-tools ## Install what the files under deploy/ are checked with (350 MB)

$(VENV)/deploy-tools: requirements/deploy.txt | $(PACKAGES)
	$(PIP) --require-hashes --no-deps -r requirements/deploy.txt
	@touch $@

oidc-provider: $(VENV)/oidc-provider/node_modules ## Install npm's OpenID provider for the tests of signing in (needs node 20 and npm; 4 MB)

$(VENV)/oidc-provider/node_modules: | $(PACKAGES)
	npm install --prefix $(VENV)/oidc-provider --no-audit --no-fund --loglevel=error oidc-provider@$(OIDC_PROVIDER)

demo: $(STAMP) ## Run a whole federated study on this machine and write its report
	@$(BIN)/medveil demo $(if $(DATA),--data "$(DATA)") $(if $(TASK),--task "$(TASK)") $(ARGS)

seed-mnist: $(STAMP) ## Digits, five hospitals, FedAvg, ten rounds of five passes (DATA=<the IDX files of MNIST>)
	@$(BIN)/medveil research seed mnist $(if $(DATA),--data "$(DATA)") $(ARGS)

seed-vision: $(STAMP) ## MobileNetV2 on 224x224x3 pictures, ten kinds, Adam: federated against centralised (DATA=)
	@$(BIN)/medveil research seed vision $(if $(DATA),--data "$(DATA)") $(ARGS)

seed-xray: $(STAMP) ## Films among hospitals that differ: alone, federated, centralised (DATA=<folder of sites>)
	@$(BIN)/medveil research seed xray $(if $(DATA),--data "$(DATA)") $(ARGS)

seed-mri: $(STAMP) ## Volumes among hospitals that differ: alone, federated, centralised (DATA=<folder of sites>)
	@$(BIN)/medveil research seed mri $(if $(DATA),--data "$(DATA)") $(ARGS)

test: $(STAMP) ## Run the tests (at most 5 minutes on 2 cores)
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -m "not slow" $(SHARED) $(ARGS)

test-all: $(STAMP) ## Run every test, the long ones too (fuzzing: FUZZ_MINUTES=2 for each of two doors)
	$(BIN)/lint-imports --no-logo
	MEDVEIL_FUZZ_MINUTES=$(FUZZ_MINUTES) $(BIN)/pytest --hypothesis-profile all $(SHARED) $(ARGS)

check: lint types test ## Everything a change must pass: ruff, mypy --strict, import rules, tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

kernel: ## Compile the passes over masked vectors into this checkout (needs a C compiler; NumPy does without)
	$(PYTHON) deploy/release/build_hook.py privacy/secagg/_kernel.so

bench: $(STAMP) ## Run every benchmark and print its table (DATA=<folder of the real data sets>)
	@set -e; for file in tests/benchmarks/*.py; do echo "== $$file"; \
	  $(BIN)/python $$file $(if $(DATA),--data "$(DATA)") $(ARGS); done

soak: $(STAMP) ## Play studies for MINUTES=10 while processes are killed, then check every invariant
	$(BIN)/python tests/soak/soak.py --minutes $(MINUTES) $(ARGS)

mutants: $(STAMP) ## Change the secure sum in 2000 ways and list what no test notices (pip install mutmut first)
	$(BIN)/mutmut run $(ARGS)
	$(BIN)/mutmut results

site: $(STAMP) ## Build the documentation as a site of plain files, in site/
	$(PIP) --require-hashes --no-deps -r requirements/site.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/python deploy/site/build.py site

release: $(STAMP) ## Make dist/: wheel, sdist, bill of materials, checksums, signed by KEY=<an SSH key>
	$(PIP) --require-hashes --no-deps -r requirements/release.txt
	$(BIN)/python deploy/release/release.py make dist $(if $(KEY),--key "$(KEY)")

bundle: $(STAMP) ## Make bundle/, from which MedVeil is installed without a network (FOR=node|aggregator|researcher)
	$(BIN)/python deploy/release/bundle.py bundle $(if $(FOR),--for $(FOR))

audit: $(STAMP) ## Look for known weaknesses of the locked packages; fails where the database cannot be reached
	$(PIP) --require-hashes --no-deps -r requirements/release.txt
	$(BIN)/pip-audit --requirement requirements/lock.txt --require-hashes --disable-pip --strict

doctor: $(STAMP) ## Look at this machine: Python, memory, disk, GPU, clock, SQLite
	@$(BIN)/medveil doctor

lock: ## Pin the newest allowed packages again (needs uv)
	requirements/lock.sh

clean: ## Remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .medveil mutants site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
