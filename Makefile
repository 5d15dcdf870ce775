# `make search` and `make test` need Python 3.11 or newer and make, and set up everything else in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: search test test-all test-gpu lint docs format clean

# The main job: regularized evolution from AdamW on the paper's PFN task, at one epoch instead of the paper's 20, so
# that it ends within minutes on two CPU cores; its results come with the package, so it takes seconds.
search: .venv/installed
	$(BIN)/nosbench search --agent re --task pfn --epochs 1 --budget 200

test: lint
	$(BIN)/pytest -n auto --dist loadfile -m "not slow" --doctest-modules

# Also the trainings of 20 epochs against the paper's code; about half an hour on a CPU.
test-all: lint
	$(BIN)/pytest -n auto --dist loadfile --doctest-modules

# The tests that need a CUDA device; they fail without one.
test-gpu: .venv/installed-dev
	NOSBENCH_REQUIRE_GPU=1 $(BIN)/pytest -m gpu

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The documentation, into site/; a warning is an error, also in the tests, which build it, too. The variable silences an announcement of the theme's makers.
docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build site *.egg-info
