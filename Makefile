# Everything a developer does here, one target each: `make help`.
# A target makes what it needs, in .venv/ and .tools/; nothing is installed system-wide.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export PATH := $(CURDIR)/.tools/bin:$(PATH)

# With the directories, which change when a file goes.
PROTOS := $(shell find proto -type d -o -name '*.proto')
SOURCES := $(wildcard controller federation nodeagent souverixctl telemetry trust airgap console deploy benchmarks tests scripts hatch_build.py)

INSTALLED := .venv/.installed
GENERATED := .venv/.generated
TOOLS := .tools/.complete

SEEDS ?= 1000
START ?= 0
BENCH ?=
# At most, where there are more cores: each worker starts whole federations.
TEST_WORKERS ?= 4

.PHONY: setup tools proto lint test sim bench demo demo-check docs constraints clean help
.DEFAULT_GOAL := help

help: ## name each target in a line
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) $(GENERATED) ## make .venv with the project (editable) and its development tools

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(GENERATED)

proto: $(INSTALLED) ## rebuild the generated packages souverix and etcdrpc from proto/
	$(BIN)/python hatch_build.py
	touch $(GENERATED)

$(GENERATED): $(INSTALLED) hatch_build.py $(PROTOS)
	$(BIN)/python hatch_build.py
	touch $@

tools: ## get etcd, etcdctl, buf and grpcurl into .tools/bin
	$(PYTHON) scripts/tools.py
	touch $(TOOLS)

$(TOOLS): scripts/tools.py
	$(PYTHON) scripts/tools.py
	touch $@

lint: setup $(TOOLS) ## check style, types, import contracts and the protobuf contract
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	buf lint
	buf format -d --exit-code
	$(PYTHON) scripts/breaking.py

test: setup $(TOOLS) ## run all tests
	$(BIN)/pytest tests -n auto --maxprocesses $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

sim: setup ## run simulated fleets: make sim SEEDS=10000 START=0
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --start $(START)

bench: setup $(TOOLS) ## run all benchmarks, or one: make bench BENCH=catchup
	$(BIN)/python -m benchmarks $(BENCH)

demo: setup $(TOOLS) ## play the demonstration, then stay up to be tried
	$(BIN)/python -m deploy.demo

demo-check: setup $(TOOLS) ## play the demonstration, assert each step, exit
	$(BIN)/python -m deploy.demo --check

docs: setup ## write docs/api/ and docs/state-machines.md anew from protos and transition tables
	$(BIN)/python -m scripts.api_reference
	$(BIN)/python -m scripts.diagrams

constraints: setup ## write constraints.txt anew from what .venv holds
	{ sed -n 1p constraints.txt; $(BIN)/pip freeze --exclude-editable; } > constraints.new
	mv constraints.new constraints.txt

clean: ## remove all that make has made
	rm -rf .venv .tools souverix etcdrpc build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
