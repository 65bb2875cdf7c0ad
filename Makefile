# Everything a fresh machine with python3, pip and make needs:
#
#   make screen [ARCHIVE=path]      screen a folder of X-ray studies (default: the example archive)
#   make install [EXTRAS=names]     install only; extras: tensorflow (training), postgres, parquet, cuda, dicom
#   make test                       run the tests
#   make check                      style, types and tests, as before each commit
#   make containers                 as root on Debian: run docker-compose.yml in containers (docs/cluster.md)
#   make chaos                      inject hundreds of faults into real stacks, and write docs/reliability.md (as root)
#   make docs                       write docs/commands.md from the help texts
#   make lock                       choose new versions of the dependencies
#   make audit                      ask osv.dev for known vulnerabilities of the dependencies; needs the internet

PYTHON ?= python3
ARCHIVE ?= examples/archive
EXTRAS ?=
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: screen install test check style types containers chaos docs lock audit clean

screen: .venv/screen.done
	@$(BIN)/bonescreen screen "$(ARCHIVE)"

install: .venv/screen.done
	@$(if $(EXTRAS),$(INSTALL) --editable ".[$(EXTRAS)]")

test: .venv/develop.done
	@$(BIN)/python -m pytest -n 4 --dist worksteal

check: style types test

style: .venv/develop.done
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: .venv/develop.done
	@$(BIN)/mypy

containers:
	@$(PYTHON) -m tests.podman

chaos: .venv/develop.done
	@$(BIN)/python -m tests.chaos --seed 13 --write docs/reliability.md

docs: .venv/screen.done
	@$(BIN)/python -m bonescreen.reference > docs/commands.md.new && mv docs/commands.md.new docs/commands.md

lock: .venv/develop.done
	@$(BIN)/uv pip compile --quiet --universal --upgrade --all-extras --python-version 3.11 --strip-extras \
		--no-annotate --no-header --no-emit-index-url pyproject.toml --output-file constraints.txt

# Strict: what it could not ask about is no success.
audit: .venv/develop.done
	@$(BIN)/uv tool run pip-audit --strict --vulnerability-service osv --no-deps --disable-pip \
		--requirement constraints.txt

clean:
	rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "bonescreen needs Python 3.11, 3.12 or 3.13; say which: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Setting up .venv (once) ..."
	@# Debian's python3 comes without ensurepip, but its pip can serve another environment.
	@$(PYTHON) -m venv .venv 2>/dev/null || { rm -rf .venv && $(PYTHON) -m venv --without-pip .venv \
		&& $(PYTHON) -m pip --python .venv/bin/python install --quiet pip; }

.venv/screen.done: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing bonescreen into .venv (about 750 MB, once) ..."
	@$(INSTALL) --editable .
	@echo "The command is .venv/bin/bonescreen"
	@touch $@

.venv/develop.done: .venv/screen.done
	@echo "Installing what training and the tests need (TensorFlow: about 2 GB, once) ..."
	@$(INSTALL) --editable ".[dev,dicom,parquet,postgres,tensorflow]"
	@touch $@
