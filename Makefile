# Two commands on a fresh machine: `make demo` and `make test`. Each creates .venv, installs torch,
# builds the extension and runs. Override what is installed: make test TORCH=torch==2.12.0
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
PY := $(VENV)/bin/python
DEMO ?=

SOURCES := setup.py pyproject.toml $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test cuda-check lint build clean

demo: $(VENV)/.built
	$(PY) -m hashdl demo $(DEMO)

test: $(VENV)/.built
	$(PY) -m pytest
	HASHDL_DISABLE_EXTENSION=1 $(PY) -m pytest -m "not slow" -p no:cacheprovider tests

# The CUDA sources compile for sm_80 and sm_90 without warnings, the hot kernels without spills; and
# their logic on the host. Both are part of `make test`.
cuda-check: $(VENV)/.built
	$(PY) -m pytest tests/cuda tests/ops/test_ops_cuda.py

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $$(find csrc tests/cuda -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

build: $(VENV)/.built

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet $(TORCH) "setuptools>=77" wheel ninja pybind11
	$(PY) -m pip install --quiet "rich>=13" "matplotlib>=3.8" "simplemma>=1.1" "numpy>=1.26" \
		"mlxtend>=0.23" "scikit-learn>=1.3" \
		"pytest>=8" "hypothesis>=6.100" "ruff>=0.9" "mypy>=1.14" "clang-format>=19" "scipy>=1.11"
	touch $@

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	$(PY) -m pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf build $(VENV) hashdl/_C*.so *.egg-info
