# Leasehold. `make help` explains every target. Everything is set up on first use; nothing is installed outside
# .venv and the user's cache.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := .run
WORKERS ?= 2
MATPLOTLIB := matplotlib==3.11.2
UV := $(shell command -v uv 2>/dev/null)

.PHONY: help setup demo up down test test-fast check generate verify bench soak faults mutants controlplane node kwok helm image e2e e2e-kind docs pictures plugin release lock clean

help: ## Explain every target
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

$(VENV)/ready: requirements.lock pyproject.toml
	@echo "Setting up $(VENV) from requirements.lock"
ifdef UV
	@uv venv --quiet --allow-existing --python '>=3.11' $(VENV)
	@uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements.lock
	@uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
else
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Leasehold needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
endif
	@touch $@

setup: $(VENV)/ready ## Make the virtual environment (uv where present, else venv and pip)

controlplane: $(VENV)/ready ## Have a kube-apiserver and etcd ready (about 8 minutes the first time, then cached)
	@$(BIN)/python -m leasehold.testing build

node: $(VENV)/ready ## Have ready what tests on a real node need (root on Linux: apt packages, and 6 minutes of building the first time)
	@$(BIN)/python -m leasehold.testing build --with node

kwok: $(VENV)/ready ## Have ready what runs pods on simulated nodes: kwok, a scheduler, controllers, kubectl (about 8 minutes the first time, half of that after `make node`)
	@$(BIN)/python -m leasehold.testing build --with scheduler,controller-manager,kwok,kubectl

helm: $(VENV)/ready ## Have Helm 4 and Helm 3 ready (about 8 minutes the first time, then cached)
	@$(BIN)/python -m leasehold.testing build --with helm,helm3

image: $(VENV)/ready ## Build the image with docker, podman or buildah (ARGS='--tag NAME --base local --archive FILE --sbom FILE')
	@$(BIN)/python -m hack.image.build $(ARGS)

e2e: controlplane node helm ## Install the chart on a real node and use it, where one can run
	@$(BIN)/python -m pytest tests/e2e $(ARGS)

e2e-kind: helm ## The same on kind (needs Docker and kind)
	@LEASEHOLD_E2E=kind $(BIN)/python -m pytest tests/e2e $(ARGS)

demo: $(VENV)/ready ## The story in one go: a real API server, this host as a node, leases granted and reclaimed
	@$(BIN)/python -m leasehold.demo --dir $(RUN) $(ARGS)

up: $(VENV)/ready ## The same, and keep it running to look around; end it with `make down`
	@$(BIN)/python -m leasehold.demo --keep --dir $(RUN) $(ARGS)

down: $(VENV)/ready ## End what `make up` started
	@$(BIN)/python -m leasehold.demo --down --dir $(RUN)

test: controlplane node kwok helm $(RUN)/docs/ready ## All tests against a real API server; coverage above 90 % enforced
	@$(BIN)/python -m hack.image.build --for-tests
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest -n $(WORKERS) $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

test-fast: $(VENV)/ready ## Unit and property tests only: no API server
	@$(BIN)/python -m pytest -n $(WORKERS) -m 'not cluster' $(ARGS)

check: $(VENV)/ready ## Lint, format, types, layers, and generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(MAKE) --no-print-directory verify

generate: helm ## Write all that is generated: crds/, docs/reference, the chart's values and definitions, manifests/
	@$(BIN)/python hack/generate.py
	@$(BIN)/python hack/generate.py --manifests

verify: $(VENV)/ready ## Fail when a generated file is not what the models say (manifests/ is looked at by the tests)
	@$(BIN)/python hack/generate.py --check

bench: controlplane ## Measure speed as ratios; writes bench-out/results.json (ARGS=--quick for a short run)
	@$(BIN)/python -m tests.perf.bench $(ARGS)

soak: controlplane ## Let leases come and go for 3 minutes and see what grows (ARGS='--minutes 30' tells more); writes bench-out/soak.json
	@$(BIN)/python -m tests.perf.soak $(ARGS)

mutants: controlplane ## Make known mistakes in a copy of the code, and see each found by tests, then by the campaign (ARGS='--only NAME' for a part)
	@$(BIN)/python -m tests.faults.mutants $(ARGS)
	@$(BIN)/python -m tests.faults.mutants --campaign $(ARGS)

faults: controlplane ## Let everything go wrong that can, and check the record; writes faults-out/ (ARGS='--only 1,4' for a part)
	@$(BIN)/python -m tests.faults.campaign --long $(ARGS)
	@$(if $(ARGS),,$(BIN)/python -m tests.faults.mutants)
	@$(if $(ARGS),,$(BIN)/python -m tests.faults.mutants --campaign)

$(RUN)/docs/ready: hack/docs/requirements.lock
	@echo "Setting up $(RUN)/docs from hack/docs/requirements.lock"
	@rm -rf $(RUN)/docs
ifdef UV
	@uv venv --quiet --python '>=3.11' $(RUN)/docs
	@uv pip install --quiet --python $(RUN)/docs/bin/python --require-hashes --no-deps -r hack/docs/requirements.lock
else
	@$(PYTHON) -m venv $(RUN)/docs
	@$(RUN)/docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r hack/docs/requirements.lock
endif
	@touch $@

docs: $(RUN)/docs/ready ## Build docs/ as a site in .run/site, strictly: a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(RUN)/docs/bin/mkdocs build --strict --site-dir $(abspath $(RUN))/site
	@echo "$(RUN)/site/index.html"

pictures: controlplane ## Draw docs/dashboards anew, from a Prometheus that scrapes an operator at work for 4 minutes (ARGS='--seconds 60')
ifdef UV
	@uv pip install --quiet --target $(RUN)/plotting --python $(BIN)/python $(MATPLOTLIB)
else
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target $(RUN)/plotting $(MATPLOTLIB)
endif
	@PYTHONPATH=operator:$(RUN)/plotting $(BIN)/python -m tests.observability.pictures $(ARGS)

plugin: $(VENV)/ready ## Make the plugin of kubectl in one file, with its manifest for Krew (ARGS='--out DIR')
	@$(BIN)/python -m hack.krew.archive $(ARGS)

release: $(VENV)/ready ## Say what a release would be (ARGS='0.2.0', or minor); with ARGS='minor --go' commit and tag it
	@$(BIN)/python hack/release.py $(or $(ARGS),minor)

lock: ## Resolve requirements.lock anew (needs uv)
	@uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --all-extras --group dev pyproject.toml \
		-o requirements.lock --custom-compile-command "make lock"
	@uv pip compile --quiet --universal --generate-hashes --python-version 3.11 hack/docs/requirements.in \
		-o hack/docs/requirements.lock --custom-compile-command "make lock"

clean: ## Remove what was made here (the control-plane cache stays)
	@rm -rf $(VENV) $(RUN) .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis bench-out faults-out
