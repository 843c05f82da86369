# Each target makes the virtual environment itself when it is missing or older than its pins.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SEEDS ?= 1

.PHONY: quickstart test test-slow ablations reach docs notebooks style format clean

quickstart: $(VENV)/.base
	$(BIN)/ultralong lab quickstart --seeds $(SEEDS)

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

# The paper's three studies, five seeds: about 20 minutes on 2 quiet cores. A stopped run goes on.
ablations: $(VENV)/.base
	$(BIN)/ultralong ablate --seeds 5 --output outputs/ablations

# How far one step goes, up to 128 times the base's window: about an hour of CPU time.
reach: $(VENV)/.base
	$(BIN)/ultralong ablate reach --seeds 1 --output outputs/reach

# The site, in outputs/site; a warning, such as a link to nothing, is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Each is run again, and written with its outputs.
notebooks: $(VENV)/.notebooks
	$(BIN)/python notebooks/execute.py

style: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first: its pin decides the build, and nothing after it replaces that.
$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/.docs: $(VENV)/.base
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

$(VENV)/.notebooks: $(VENV)/.base
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[notebooks]"
	touch $@

clean:
	rm -rf $(VENV) outputs .pytest_cache .mypy_cache .ruff_cache
