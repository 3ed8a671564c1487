# Everything a person does with a clone. `make` alone lists the targets.
#
#   make serve                       make serve MODEL=path/to/model.gguf PORT=9000
#   make test                        make test TESTS=tests/engine
#   make bench                       make bench NAME="decode --quick"

PYTHON ?= python3
VENV   ?= .venv
MODEL  ?= smollm2
HOST   ?= 127.0.0.1
PORT   ?= 8000
TESTS  ?=
NAME   ?= --list

BIN    := $(VENV)/bin
# The version the golden tests were made with. Installed by itself, so that no later resolve picks another.
TORCH  := torch==2.13.0
NATIVE := $(shell find native -name '*.cpp' -o -name '*.h') CMakeLists.txt

export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || echo 2)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help serve test slow lint format check docs size bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 10

serve: $(VENV)/installed  ## install, fetch the default model, serve it on 127.0.0.1:8000
	@if [ "$(MODEL)" = smollm2 ]; then $(BIN)/trimtab pull smollm2; fi
	exec $(BIN)/trimtab serve "$(MODEL)" --host $(HOST) --port $(PORT)

test: $(VENV)/testing  ## install with torch and the test tools, run every test that is not slow
	$(BIN)/python -m pytest -m "not slow" $(TESTS)

slow: $(VENV)/testing  ## run the tests that need minutes
	$(BIN)/python -m pytest -m slow $(TESTS)

lint: $(VENV)/testing  ## ruff (rules and format), mypy --strict over src/trimtab
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/testing  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint  ## under a minute: lint, types and the tests that load no model
	$(BIN)/python -m pytest -x -m "not slow" tests/test_floors.py tests/test_papers.py \
	    tests/test_project.py tests/engine

docs: $(VENV)/testing  ## write the generated pages again: papers, reference, figures in the README
	$(BIN)/python -m trimtab.papers > docs/papers.md
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/figures.py

size:  ## the largest files and functions
	@$(PYTHON) tools/size.py

bench: $(VENV)/installed  ## `trimtab bench $(NAME)`; without NAME, list the benchmarks
	$(BIN)/trimtab bench $(NAME)

clean:  ## remove the environment, the build and every cache inside the clone
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian keeps ensurepip in python3-venv. Where it is missing, the system's pip installs into the bare environment.
$(BIN)/python:
	@PYTHON="$(PYTHON)" sh tools/needs.sh
	$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || \
	    { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && \
	      $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

# Editable, so that Python edits need no install; a change of the C++ or of the settings builds again.
$(VENV)/installed: $(BIN)/python pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/testing: $(VENV)/installed
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet "trimtab[test,lint]"
	@touch $@
