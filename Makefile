# One vocabulary for people, hooks and CI. `make help` lists it.
PYTHON ?= python3
ROWS ?= 5000000
EXAMPLES ?= 300000
MODEL ?= churn
WEEKS ?= 24
WORKERS ?= 2
TANDEM_HOME ?= $(CURDIR)/.tandem
export TANDEM_HOME

UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
BIN := .venv/bin
# Tests write many small files and wait for the disk each time: in memory, where there is plenty, they take half as long.
# Each has one core: threads of two that share it would spin, waiting for each other.
IN_MEMORY := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 8000000 {print "-p /dev/shm"}')

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-weeks test test-image check format dev serve image bench bench-batch bench-growth bench-api bench-overload bench-quality bench-reasons schema protocol lock docs screenshots clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed ## install uv (in a private folder, if there is none) and the locked dependencies

demo: setup ## the whole life of one model on made customers (MODEL=fraud: card swipes): ROWS=5000000, STAY=1 keeps the API running
	@$(BIN)/tandem demo --model $(MODEL) $(if $(filter-out file,$(origin ROWS)),--rows $(ROWS)) --examples $(EXAMPLES) $(if $(STAY),--stay)

demo-weeks: setup ## the demo's customers live on: drift is seen, retrains, is promoted, recovers (WEEKS=24, 5 minutes)
	@$(BIN)/tandem demo-weeks --weeks $(WEEKS)

test: setup ## run the tests, WORKERS=2 at a time; ARGS="-k night" runs some
	@scratch=$$(mktemp -d $(IN_MEMORY)) && chmod go+x "$$scratch" || exit 1; trap 'rm -rf "$$scratch"' EXIT INT TERM; \
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TMPDIR="$$scratch" $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --basetemp="$$scratch/pytest" $(ARGS)

test-image: setup ## build the container image for real and ask it: needs root, podman, crun, mmdebstrap
	@$(BIN)/python -m pytest -m container tests/bento/building/test_container.py $(ARGS)

check: setup ## lint, format, types and import rules
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup ## put the code into its standard form
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

dev: setup ## Dagster's UI, MLflow and the APIs on loopback; Ctrl-C stops all
	@$(BIN)/tandem dev

serve: setup ## the API of one model: MODEL=churn
	@$(BIN)/tandem serve $(MODEL)

image: setup ## the container image of a model's newest Bento: MODEL=churn NAME=registry/churn
	@$(BIN)/tandem image $(MODEL) $(if $(NAME),--name $(NAME))

bench: setup ## measure scoring, the night and the API, side by side in one run (needs a demo's home)
	@$(BIN)/python -m benchmarks.overview --model $(MODEL)

bench-batch: setup ## the night beside its kernel and its rivals: ROWS=5000000 (6 minutes, 9 GB); see docs/benchmarks.md
	@$(BIN)/python -m benchmarks.batch --rows $(ROWS) $(if $(JSON),--json $(JSON)) $(if $(ONLY),--only $(ONLY))

bench-growth: setup ## the night from one to twenty million customers, beside its kernel (4 minutes)
	@$(BIN)/python -m benchmarks.growth $(if $(JSON),--json $(JSON))

bench-quality: setup ## the network beside boosted trees, on every table in reach (50 minutes); see docs/quality.md
	@$(BIN)/python -m benchmarks.quality $(if $(JSON),--json $(JSON)) $(if $(ONLY),--only $(ONLY)) $(if $(SPLITS),--splits $(SPLITS))

bench-api: setup ## the API over REST and gRPC, beside its floor and MLflow's server (MODEL=fraud: card swipes): ROWS=5000000 (12 minutes)
	@$(BIN)/python -m benchmarks.api --model $(MODEL) $(if $(filter-out file,$(origin ROWS)),--rows $(ROWS)) $(if $(JSON),--json $(JSON)) $(if $(ONLY),--only $(ONLY)) $(if $(SECONDS),--seconds $(SECONDS))

bench-reasons: setup ## how near the reasons of a champion are to exact ones, and what they cost (needs a home): MODEL=churn
	@$(BIN)/python -m benchmarks.reasons --model $(MODEL)

bench-overload: setup ## the API asked three times as much as it can take, for a minute (ROWS=5000000)
	@$(BIN)/python -m benchmarks.api_overload --rows $(ROWS) $(if $(JSON),--json $(JSON))

schema: setup ## write the JSON Schema of declarations, and their reference page
	@$(BIN)/tandem schema > models/declaration.schema.json && $(BIN)/python -m docs.making.declaration_reference

docs: setup ## build the documentation's site into site/; SERVE=1 shows it at :8000 while you write
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(if $(SERVE),serve,build --quiet) --strict$(if $(SERVE),, && echo site/index.html)

screenshots: setup ## take the pictures of the docs in headless Chromium, on a home of their own, and follow the tutorial anew
	@$(BIN)/python -m docs.making.screenshots && $(BIN)/python -m docs.making.tutorial

protocol: setup ## compile the Open Inference Protocol's messages
	@$(BIN)/python -m grpc_tools.protoc -I bento/open_inference --descriptor_set_out=bento/open_inference/protocol.pb protocol.proto

lock: .venv/.installed ## resolve the dependencies again
	@$(UV) pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --all-extras pyproject.toml -o requirements.lock

clean: ## remove everything that was made, the installed packages too
	rm -rf .tandem .venv .uv site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.venv/.installed: requirements.lock pyproject.toml | $(UV)
	@test -x $(BIN)/python || $(UV) venv -q --python $(PYTHON) .venv
	@$(UV) pip sync -q --compile-bytecode --python $(BIN)/python requirements.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.uv/bin/uv:
	@$(PYTHON) -m venv .uv && .uv/bin/pip -q --disable-pip-version-check install uv
