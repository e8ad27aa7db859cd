# One vocabulary for people, hooks and CI. `make help` lists it.
PYTHON ?= python3
ROWS ?= 5000000
EXAMPLES ?= 300000
MODEL ?= churn
TANDEM_HOME ?= $(CURDIR)/.tandem
export TANDEM_HOME

UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format dev serve bench bench-batch schema lock screenshots clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed ## install uv (in a private folder, if there is none) and the locked dependencies

demo: setup ## the whole life of one model on made customers: ROWS=5000000, STAY=1 keeps the API running
	@$(BIN)/tandem demo --rows $(ROWS) --examples $(EXAMPLES) $(if $(STAY),--stay)

test: setup ## run the tests
	@$(BIN)/python -m pytest $(ARGS)

check: setup ## lint, format, types and import rules
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup ## put the code into its standard form
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

dev: setup ## Dagster's UI, MLflow and the APIs on loopback; Ctrl-C stops all
	@$(BIN)/tandem dev

serve: setup ## the API of one model: MODEL=churn
	@$(BIN)/tandem serve $(MODEL)

bench: setup ## measure scoring, the night and the API, side by side in one run (needs a demo's home)
	@$(BIN)/python -m benchmarks.overview --model $(MODEL)

bench-batch: setup ## the night beside its kernel and its rivals: ROWS=5000000 (8 minutes, 11 GB); see docs/benchmarks.md
	@$(BIN)/python -m benchmarks.batch --rows $(ROWS) $(if $(JSON),--json $(JSON)) $(if $(ONLY),--only $(ONLY))

schema: setup ## write the JSON Schema of declarations, and their reference page
	@$(BIN)/tandem schema > models/declaration.schema.json && $(BIN)/python -m docs.declaration_reference

screenshots: setup ## take the pictures of the docs from the running UI (needs chromium and a demo's home)
	@$(BIN)/python -m docs.screenshots

lock: .venv/.installed ## resolve the dependencies again
	@$(UV) pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --all-extras pyproject.toml -o requirements.lock

clean: ## remove everything that was made, the installed packages too
	rm -rf .tandem .venv .uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.venv/.installed: requirements.lock pyproject.toml | $(UV)
	@test -x $(BIN)/python || $(UV) venv -q --python $(PYTHON) .venv
	@$(UV) pip sync -q --compile-bytecode --python $(BIN)/python requirements.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.uv/bin/uv:
	@$(PYTHON) -m venv .uv && .uv/bin/pip -q --disable-pip-version-check install uv
