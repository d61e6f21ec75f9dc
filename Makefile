# Both targets set themselves up on a fresh machine. The virtual environment is reused until a dependency changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests run in as many processes as there are cores, each with one thread: on tiny tensors threads wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile
# Extra arguments for pip, for instance an index that holds CPU-only builds of torch.
PIP_ARGS ?=

.PHONY: quickstart test test-fast lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 11) or sys.exit(f"delta_trl needs Python 3.11 or later, and {sys.executable} is {v}. Name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: $(VENV)/.installed
	$(BIN)/python scripts/quickstart.py

test: lint
	$(PYTEST)

test-fast: lint
	$(PYTEST) -m 'not slow'

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) outputs
