# Two commands matter: `make quickstart` and `make test`. Each makes .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LATEST := .venv-latest
UPSTREAM := torch transformers trl peft datasets accelerate bitsandbytes
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints.txt)
# At run time nothing is fetched: what the four stages need is on the disk.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1

.PHONY: quickstart test test-slow test-distributed test-chaos test-architectures test-docs test-browser test-gpu test-latest \
	lint format docs bench bench-gpu clean

quickstart: $(VENV)/installed
	$(OFFLINE) $(BIN)/hfkit quickstart --output_dir runs/quickstart --seed 0

# On two cores: a third worker computes while another one waits for a process that a test has started.
# Processes of tests import hfkit; without bytecode, each of them takes a quarter of a second more.
test: $(VENV)/installed
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadfile

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

test-distributed: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m distributed

# Bounded: what has not ended after 15 minutes is a failure.
test-chaos: $(VENV)/installed
	timeout 900 $(BIN)/python -m pytest -m chaos -n 2

test-architectures: $(VENV)/installed
	$(BIN)/python -m pytest -m architectures -n 2

test-docs: $(VENV)/installed
	$(BIN)/python -m pytest -m docs -n 2 --dist load

test-gpu: $(VENV)/installed
	HFKIT_TEST_GPU=1 $(BIN)/python -m pytest -m "gpu or any_device"

# The newest releases that pyproject.toml allows, in place of those of constraints.txt; each call upgrades them.
test-latest:
	test -x $(LATEST)/bin/python || $(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/pip install --quiet --upgrade --upgrade-strategy eager $(UPSTREAM) --editable '.[dev]'
	$(LATEST)/bin/python -c 'import importlib.metadata as m, sys; [print(name, m.version(name)) for name in sys.argv[1:]]' $(UPSTREAM)
	$(LATEST)/bin/python -m pytest -n 2 --dist loadfile

# The site and the page of hfkit label in a headless Chromium, which Debian's package `chromium` has; playwright alone takes 165 MB.
test-browser: $(VENV)/installed
	$(BIN)/python -c "import playwright, axe_playwright_python" || \
		$(BIN)/pip install --quiet --constraint constraints.txt playwright axe-playwright-python
	$(BIN)/python -m pytest -m browser

# The documentation as a site in site/, which opens without a network, from a server or from the folder.
docs: $(VENV)/installed
	$(BIN)/python docs/hooks/write_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/python docs/lint/prose.py

format: $(VENV)/installed
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(VENV)/installed
	$(OFFLINE) $(BIN)/python benchmarks/overhead.py

# Installs nothing, since such a machine may have no network. ARGS="--model DIR --budget 600": see benchmarks/gpu.py.
bench-gpu:
	$(OFFLINE) PYTHONPATH=$(CURDIR) $(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py $(ARGS)

# torch first and alone: with it in place no other package pulls the CUDA build in.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .pytest_cache .ruff_cache site
