# `make` lists the targets. Everything is installed into .venv from requirements.lock; nothing else is assumed but
# Python 3.10 or 3.11 and, for the data set, npm or a route to the official files.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo up test testall test-all lint documents bench benchkafka reliability soak fuzz lock audit sbom clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1	\2/' | expand -t 20

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 11) else f"Python 3.10 or 3.11 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@grep -A40 '^uv==' requirements.lock | awk 'NR > 1 && /^[a-z]/ { exit } { print }' > $(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

install: $(STAMP) ## Create .venv with exactly what requirements.lock names

demo: $(STAMP) ## Run the whole story on an embedded broker and real images, with a verdict
	$(BIN)/modelwatch demo

up: $(STAMP) ## Run the pipeline until Ctrl-C
	$(BIN)/modelwatch up

lint: $(STAMP) ## ruff, mypy, direction of imports, staleness of generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m schemas.documents --check
	$(BIN)/python -m cli.settings_documents --check
	$(BIN)/python -m views --check
	$(BIN)/python -m cli.manifests --check

test: lint ## Everything CI runs
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

testall: lint ## Everything CI runs, and what takes longer than it is worth at each change
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: testall

documents: $(STAMP) ## Generate schemas, settings documents, dashboards and manifests anew
	$(BIN)/python -m schemas.documents
	$(BIN)/python -m cli.settings_documents
	$(BIN)/python -m views
	$(BIN)/python -m cli.manifests

bench: $(STAMP) ## Measure the worker and the agents; figures go to bench/*.json
	$(BIN)/modelwatch bench worker --json > bench/worker.json
	$(BIN)/modelwatch bench outliers --json > bench/outliers.json
	$(BIN)/modelwatch bench drift --json > bench/drift.json
	$(BIN)/modelwatch bench confusion --json > bench/confusion.json
	$(BIN)/modelwatch bench explanations --json > bench/explanations.json

WITH_KAFKA = $(BIN)/python -m tests.servers.with_kafka $(BIN)/modelwatch bench
benchkafka: $(STAMP) ## The same on Apache Kafka (needs Java and Maven); figures go to bench/kafka/*.json
	@mkdir -p bench/kafka
	$(WITH_KAFKA) worker --json > bench/kafka/worker.json
	$(WITH_KAFKA) outliers --json > bench/kafka/outliers.json
	$(WITH_KAFKA) drift --json > bench/kafka/drift.json
	$(WITH_KAFKA) confusion --json > bench/kafka/confusion.json
	$(WITH_KAFKA) explanations --json > bench/kafka/explanations.json

ROUNDS ?= 1
reliability: $(STAMP) ## Do each fault ROUNDS=1 times to a pipeline on three Kafka nodes; tables go to docs/reliability.md
	$(BIN)/python -m tests.faults.run --rounds $(ROUNDS) --only '^(?!a model is )' --output bench/reliability.json
	$(BIN)/python -m tests.faults.run --rounds $(ROUNDS) --only '^a model is ' --output bench/models.json
	$(BIN)/python -m tests.faults.overload --output bench/overload.json
	$(BIN)/python -m tests.faults.table

MINUTES ?= 20
soak: $(STAMP) ## Random faults under load for MINUTES=20; tables go to docs/reliability.md
	$(BIN)/python -m tests.faults.run --minutes $(MINUTES) --output bench/soak.json
	$(BIN)/python -m tests.faults.table

SECONDS ?= 60
FUZZ_TARGETS ?= requests png pairs feedback questions features model_yaml checksums http
fuzz: $(STAMP) ## Fuzz each reader of foreign bytes for SECONDS=60, guided by coverage (Linux, Python 3.11)
	$(BIN)/uv pip install --quiet --python $(BIN)/python atheris==3.0.0
	@for target in $(FUZZ_TARGETS); do \
		echo "== $$target"; $(BIN)/python -m tests.fuzz.run $$target --seconds $(SECONDS) || exit 1; \
	done

COMPILE = $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --no-annotate --universal --python-version 3.10
BLOCKS = awk '/^[a-z]/ { keep = $$0 ~ pattern } keep'

lock: $(STAMP) ## Resolve requirements.lock anew from pyproject.toml
	$(COMPILE) --extra local --extra dev pyproject.toml --output-file requirements.lock
	$(COMPILE) --extra gpu --constraints requirements.lock pyproject.toml | $(BLOCKS) pattern='^nvidia-' > requirements-image.lock
	grep -o '^tensorflow==[0-9.]*' requirements.lock | sed 's/==/-cpu==/' | $(COMPILE) --no-deps - >> requirements-image.lock

audit: $(STAMP) ## Look the locked packages up among known vulnerabilities (pip-audit)
	$(BIN)/uv tool run --quiet --from pip-audit==2.10.1 pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock

sbom: $(STAMP) ## Write build/sbom.json: every installed package, in CycloneDX (cyclonedx-py)
	@mkdir -p build
	$(BIN)/uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.json $(BIN)/python

clean: ## Remove .venv and build/
	rm -rf $(VENV) build
