# Everything is made inside the checkout, in .venv, .cache and .scoreline.
export TMPDIR := $(CURDIR)/.cache/tmp
unexport PYTHONDONTWRITEBYTECODE # the tests start hundreds of processes, each of which would compile the same modules
BIN := .venv/bin

MINUTES ?= 10
SEED ?=
ONLY ?=

.PHONY: help setup demo test test-versions lint format docs bench fuzz mutants sanitize soak day clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-14s %s\n", $$1, $$2 }'

setup: ## Create .venv with Python 3.12 and every requirement
	@mkdir -p $(TMPDIR)
	@scripts/setup

demo: setup ## Score a million rows on an embedded Valkey and S3 server
	@$(BIN)/scoreline demo $$(if [ -t 1 ]; then echo --keep; fi)

test: setup ## Run every test, on embedded services and real workers
	@$(BIN)/python -m pytest -n auto --dist worksteal

test-versions: setup ## Test the lowest and newest packages that are allowed
	@scripts/test-versions

lint: setup ## Check style, types, imports, and the Docker and CI files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --builtin-schema custom.github-workflows-require-timeout .github/workflows/*.yml

format: setup ## Format the source and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: setup ## Build the documentation into .scoreline/docs; warnings are errors
	@mkdir -p .scoreline
	@$(BIN)/sphinx-build -W --keep-going -q -d .scoreline/doctrees docs .scoreline/docs
	@echo "built .scoreline/docs/index.html"

bench: setup ## Run the benchmarks (2 hours; QUICK=1: 5 minutes)
	@scripts/bench $(if $(filter-out 0,$(QUICK)),quick)

fuzz: setup ## Run the property tests on random examples for MINUTES (default 10), from SEED
	@$(BIN)/python -m tests.fuzz $(MINUTES) $(SEED)

mutants: setup ## Break the code in many places; a test must notice each (ONLY=name)
	@$(BIN)/python -m tests.mutants $(ONLY)

sanitize: setup ## Test the extensions under AddressSanitizer and UBSan
	@scripts/sanitize

soak: setup ## Run random jobs under random faults for MINUTES, from SEED
	@mkdir -p .scoreline
	@$(BIN)/python -m tests.faults.soak $(MINUTES) $(SEED)

day: setup ## Run a day of schedules in 4 minutes, with failing clocks
	@mkdir -p .scoreline
	@$(BIN)/python -m tests.faults.day

clean: ## Remove .venv, .cache, .scoreline and the built extensions
	rm -rf .venv .cache .scoreline
	find storage tasks worker -name '*.so' -delete
