# make demo       a whole federation on this machine, a leaked copy traced
# make test       lint, types, import contracts, tests (all but slow)
# make test-all   the same and the slow tests
# make fuzz       the property tests with 2,000 new examples each
# make check      the quick loop of a developer: lint, types, contracts, unit tests

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
INSTALLED := $(VENV)/.installed
DEMO := .demo

# Flower asks the internet at start-up for three things nobody here needs; see docs/threat_model.md.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1

.PHONY: install demo test test-all fuzz check lint clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is " + sys.version.split()[0] + "; say make PYTHON=python3.12, for example") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	@rm -rf $(DEMO)
	$(BIN)/smdl init --home $(DEMO)/home
	$(BIN)/smdl simulate scenarios/quickstart.toml --home $(DEMO)/home --out $(DEMO)/run
	@echo; echo "A customer leaks its copy, pruned by half and fine-tuned on 800 images first:"
	$(BIN)/smdl attack prune $(DEMO)/run/copies/customer-03.safetensors --set fraction=0.5 --data mnist-5k --out $(DEMO)/pruned.safetensors
	$(BIN)/smdl attack fine-tune $(DEMO)/pruned.safetensors --set epochs=5 --data mnist-5k --out $(DEMO)/leaked.safetensors
	@echo; echo "Whose copy is it?"
	$(BIN)/smdl verify $(DEMO)/leaked.safetensors --home $(DEMO)/home --report $(DEMO)/evidence
	@echo; echo "Look at $(DEMO)/run/report.html and $(DEMO)/evidence/report.html"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/pytest -q -n 2 -m "not slow and not e2e"

test: lint
	$(BIN)/pytest -n 2 -m "not slow" --cov --cov-report=term

test-all: lint
	$(BIN)/pytest -n 2 --cov --cov-report=term

fuzz: install
	SMDL_HYPOTHESIS=fuzz $(BIN)/pytest -n 2 -m hypothesis

clean:
	rm -rf $(VENV) $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
