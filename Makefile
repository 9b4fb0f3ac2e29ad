# make demo: install and run the main job.  make test: install, lint and test.  Needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
WORKERS ?= 2
OUTPUT ?= outputs/demo

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
TORCH := $(shell grep '^torch==' constraints.txt)
TORCHVISION := $(shell grep '^torchvision==' constraints.txt)

export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check lint docs clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/omnipref demo --output-dir $(OUTPUT)

test: lint check

check: $(VENV)/.installed-dev
	@echo "== tests on $(WORKERS) workers"
	@mkdir -p build
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations=15 --junitxml=build/tests.xml $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	@echo "== ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "== basedpyright"
	$(BIN)/basedpyright

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build dist outputs .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and by exact version: an open range takes the newest and largest build.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; try: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || { echo "== creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "== installing $(TORCH)"
	$(PIP) $(TORCH)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	@echo "== installing omnipref"
	$(PIP) -c constraints.txt -e .
	@touch $@

# torchvision has no CPU build, and its own would break the CPU build of torch; tests alone look into that folder.
$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	@echo "== installing omnipref with what the tests need"
	$(PIP) -c constraints.txt -e '.[bench,test,lint]'
	$(PIP) --no-deps --upgrade --target $(VENV)/test-only $(TORCHVISION)
	@touch $(VENV)/.installed $@
