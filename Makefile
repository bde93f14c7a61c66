# The project's two commands are `make demo` and `make test`; both make their own environment.
#
# PYTHON names the interpreter that the environment is made from (3.11 or later).

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
BUILD := build/c
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
# ON: a warning of the compiler ends `make test`; for those who change the core.
WERROR ?= OFF

SOURCES := $(shell find csrc deepseek_det -name '*.[ch]' -o -name '*.def' -o -name '*.py' -o -name '*.pyi') \
           CMakeLists.txt pyproject.toml README.md LICENSE

.PHONY: demo test ctest pytest lint format clean

demo: $(VENV)/installed
	$(VENV)/bin/deepseek-det demo

test: ctest pytest

# An environment, without anything in it.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; say PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# The package, installed as a user installs it (not editable), again when a source changed.
$(VENV)/installed: $(VENV)/made $(SOURCES)
	$(PY) -m pip install -q --disable-pip-version-check .
	touch $@

# What an extra of pyproject.toml asks for, without building the package once more.
$(VENV)/extra-%: $(VENV)/made pyproject.toml
	$(PY) -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*project["optional-dependencies"]["$*"], sep="\n")' > $@.txt
	$(PY) -m pip install -q --disable-pip-version-check -r $@.txt
	touch $@

ctest: $(VENV)/extra-test
	$(VENV)/bin/cmake -S . -B $(BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(VENV)/bin/ninja -DDD_TESTS=ON -DDD_WERROR=$(WERROR)
	$(VENV)/bin/cmake --build $(BUILD) -j $(JOBS)
	$(VENV)/bin/ctest --test-dir $(BUILD) --output-on-failure

# From the tests' folder and not by `python -m`, so that the installed package is imported.
pytest: $(VENV)/installed $(VENV)/extra-test
	cd tests && ../$(VENV)/bin/pytest

lint: $(VENV)/installed $(VENV)/extra-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@if command -v clang-format >/dev/null; then \
	  git ls-files '*.c' '*.h' | xargs clang-format --dry-run -Werror; \
	else echo "clang-format is not installed: the format of C files was not checked"; fi

format: $(VENV)/extra-lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache deepseek_det/_core*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
