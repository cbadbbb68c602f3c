# Everything from a fresh clone: needs Python 3.11 or newer, and make.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: sweep compress test test-faults coverage lint docs hooks release bench clean

# Three students against two layers of MiniLM.
sweep: .venv/.minilm
	$(BIN)/python -m sweep -m student.qkv_layers=1,2,4

# MiniLM at a third of its layers' parameters: multirun/small/model.
compress: .venv/.minilm
	$(BIN)/python -m sweep.compress study=small budget.parameters=0.33

test: .venv/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" $(PYTEST)

# What takes longer: killed processes, restarted servers, every launcher. They wait more than they
# compute, so two at a time; more would be late for each other's deadlines.
test-faults: .venv/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow $(PYTEST)

# What the quick tests run of the code, without the processes that they start: htmlcov/index.html.
coverage: .venv/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" --cov --cov-report=term:skip-covered \
		--cov-report=html $(PYTEST)

# The sdist and the wheel in dist/, tried in an environment of their own, and the release's notes.
release: .venv/.dev
	$(BIN)/python .ci/release.py

# The figures of docs/performance.md; on an idle machine, some forty minutes.
bench: .venv/.dev
	$(BIN)/python benchmarks/whole.py
	$(BIN)/python benchmarks/limit.py
	$(BIN)/python benchmarks/fit.py
	$(BIN)/python benchmarks/muon.py
	$(BIN)/python benchmarks/sweeps.py
	$(BIN)/python benchmarks/at_once.py
	$(BIN)/python benchmarks/side_by_side.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/gap.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/overhead.py

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# ruff, mypy and a look at conf/ before each commit (.pre-commit-config.yaml).
hooks: .venv/.dev
	$(BIN)/pre-commit install

# The documentation as a site, build/docs/index.html; what Sphinx warns of is an error. The tests
# build it too.
docs: .venv/.docs
	rm -rf build/docs
	$(BIN)/python -m sphinx --builder html --fresh-env --fail-on-warning --keep-going --quiet \
		--conf-dir docs/site --doctree-dir build/doctrees . build/docs
	@echo "$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/docs"

clean:
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache

# The extras that each target needs; installed again when their list changes.
.venv/.%: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "slicewise needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
