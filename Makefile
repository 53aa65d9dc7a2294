# Needs python3 (3.11 or newer) and pip, nothing else: everything is installed into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test chaos mutants lint types format docs bench constraints clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.worker ## Run the 200 prompts of examples/ offline, with no key and no Redis
	@rm -f examples/prompts.out.jsonl examples/prompts.out.jsonl.farebox
	$(BIN)/farebox run examples/prompts.jsonl -m echo:echo --budget 5 -o examples/prompts.out.jsonl --data-dir .farebox

test: $(VENV)/.test ## Run the whole test suite
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.check ## Check style, layout and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.check ## Check the types of both packages, strictly; those of the client by a second checker too
	$(BIN)/mypy
	$(BIN)/basedpyright

format: $(VENV)/.check ## Rewrite the code into the project's layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs ## Build the site of the documentation into site/; a broken link is an error
	$(BIN)/python docs/configuration.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

chaos: $(VENV)/.test ## Kill workers and the server at random for two minutes; the provider's bill judges
	$(BIN)/python -m tests.fleet.chaos --seconds 120

mutants: $(VENV)/.test ## Break one promise of the money at a time: the money machine must notice
	$(BIN)/python -m tests.money.mutants $(WORDS)

bench: $(VENV)/.worker ## Measure, as ratios against plain loops
	@if [ -f benchmarks/run.py ]; then $(BIN)/python benchmarks/run.py; else echo "benchmarks/run.py is not written yet"; exit 1; fi

constraints: ## Pin the newest versions that fit together in constraints.txt
	@echo "Resolving everything anew in a throw-away environment (a minute or two)"
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(PYTHON) -m venv "$$fresh" \
	&& pip="$$fresh/bin/python -m pip --quiet --quiet --disable-pip-version-check" \
	&& $$pip install --upgrade pip && $$pip install ".[worker]" --group test --group check --group docs \
	&& { echo '# Made by `make constraints`: what the extra "worker" and the groups resolve to.'; \
	     $$pip freeze --exclude farebox; } > "$$fresh/constraints.txt" && cat "$$fresh/constraints.txt" > constraints.txt

clean: ## Remove .venv, caches, the demo's output and its embedded server's data
	rm -rf $(VENV) site .farebox .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	rm -rf examples/*.out.jsonl examples/*.out.jsonl.*
	find producer worker tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each stands for a finished step, so that the second call of a verb starts at once.

$(VENV)/.pip:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Farebox needs Python 3.11 or newer; name it with PYTHON=…"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Farebox needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())')." \
	       "Name a newer one: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) (once, about half a minute)"
	@# Some systems split ensurepip off python3: then the system's own pip fills the environment.
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	 else $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --quiet --python $(VENV)/bin/python install pip; fi
	@$(PIP) install --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.worker: $(VENV)/.pip pyproject.toml constraints.txt
	@echo "Installing Farebox with its worker into $(VENV)"
	@$(PIP) install -c constraints.txt -e ".[worker]"
	@touch $@

$(VENV)/.test: $(VENV)/.worker
	@echo "Installing what the tests need into $(VENV)"
	@$(PIP) install -c constraints.txt --group test
	@touch $@

$(VENV)/.docs: $(VENV)/.worker
	@echo "Installing what builds the site of the documentation into $(VENV)"
	@$(PIP) install -c constraints.txt --group docs
	@touch $@

$(VENV)/.check: $(VENV)/.test
	@echo "Installing the linters into $(VENV)"
	@$(PIP) install -c constraints.txt --group check
	@touch $@
