# Everything happens inside the checkout: .venv, .cache, .scoreline.
export TMPDIR := $(CURDIR)/.cache/tmp
BIN := .venv/bin

MINUTES ?= 10

.PHONY: help setup demo test lint format bench soak day clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: ## Make .venv with Python 3.12 and every requirement
	@mkdir -p $(TMPDIR)
	@scripts/setup

demo: setup ## Score a million rows of real data on embedded services
	@$(BIN)/scoreline demo

test: setup ## Run every test, on embedded services and real worker processes
	@$(BIN)/python -m pytest -n 3 --dist worksteal

lint: setup ## Style, types, the direction of imports, and the files of Docker
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: setup ## Put the source into its form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## Measure against a loop by hand, Dask, Ray and Spark; QUICK=1 takes 5 minutes once they are installed
	@scripts/bench $(if $(filter-out 0,$(QUICK)),quick)

soak: setup ## Repeat random faults on real processes for MINUTES (10)
	@mkdir -p .scoreline
	@$(BIN)/python -m tests.faults.soak $(MINUTES)

day: setup ## Run a day of schedules in 4 minutes, with clocks that die and double
	@mkdir -p .scoreline
	@$(BIN)/python -m tests.faults.day

clean: ## Remove everything that was made here
	rm -rf .venv .cache .scoreline
