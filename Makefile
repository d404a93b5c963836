# `make help` says what there is. Everything lands in .venv, .e2e, .peers and var; the system is left alone, except that
# setup-e2e installs Debian's Chromium where none is found.

.DEFAULT_GOAL := help
.PHONY: help setup setup-e2e serve test torture siege check conformance compatibility screenshots bench bench-peers lock clean

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COMPILED := build/.compiled
E2E := .e2e
# The clients the end-to-end tests were written against. The SDK is the TypeScript one; Python's is a requirement.
CLAUDE_CODE := 2.1.329
TYPESCRIPT_SDK := 1.11.0
# The gateways that bench-peers measures beside ours. 3.x of the router could not be installed: a package is missing.
PEERS := .peers
LITELLM := 1.106.2
CLAUDE_CODE_ROUTER := 2.0.0
# The tool that writes the lock files.
UV := 0.13.8
# More arguments for the command: make test ARGS="-k spool -x", make serve ARGS="--port 9000".
ARGS :=

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) $(COMPILED) ## Install everything for Python into .venv and compile the inner loops

# The first of these that is Python 3.11 or later.
PYTHONS := $(PYTHON) python3.13 python3.12 python3.11 python3

$(INSTALLED): requirements-dev.txt
	@if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
		for python in $(PYTHONS); do \
			$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
			python=; \
		done; \
		if [ -z "$$python" ]; then \
			echo "No Python 3.11 or later was found; name one: make setup PYTHON=/path/to/python3" >&2; exit 1; \
		fi; \
		echo "Making $(VENV) with $$($$python --version)"; \
		$$python -m venv --clear $(VENV) || { \
			echo "Making a virtual environment failed; on Debian: apt-get install python3-venv" >&2; exit 1; }; \
	fi
	@echo "Installing the locked requirements"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

# Without a compiler, or with CCPROXY_BUILD_CYTHON=false, the same loops run uncompiled.
$(COMPILED): $(INSTALLED) providers/_hot.py providers/_hot_c.pxd setup.py
	@rm -f providers/_hot_c.*.so
	@mkdir -p build
	@$(BIN)/python setup.py --quiet build_ext --inplace >build/compile.log 2>&1 || cat build/compile.log >&2
	@$(BIN)/python -c 'from providers import hot; print("Compiled loops:", hot.state())'
	@touch $@

setup-e2e: $(INSTALLED) ## Install Chromium, Claude Code and Anthropic's SDK for the end-to-end tests
	@if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null; then \
		if ! command -v apt-get >/dev/null; then echo "Chromium is missing: install it" >&2; exit 1; fi; \
		echo "Installing Chromium"; \
		sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		mkdir -p $(E2E); \
		{ $$sudo apt-get -qq update && $$sudo env DEBIAN_FRONTEND=noninteractive \
			apt-get -qq install --yes --no-install-recommends chromium; } >$(E2E)/chromium.log 2>&1 || \
			{ tail -n 20 $(E2E)/chromium.log >&2; exit 1; }; \
	fi
	@if ! command -v npm >/dev/null; then echo "npm is missing: install Node.js 18 or later" >&2; exit 1; fi
	@rm -f $(E2E)/ready
	@echo "Installing Claude Code $(CLAUDE_CODE) and the TypeScript SDK $(TYPESCRIPT_SDK)"
	@mkdir -p $(E2E)
	@npm install --prefix $(E2E) --no-save --no-package-lock --no-audit --no-fund --loglevel=error \
		@anthropic-ai/claude-code@$(CLAUDE_CODE) @anthropic-ai/sdk@$(TYPESCRIPT_SDK) \
		>$(E2E)/npm.log 2>&1 || { cat $(E2E)/npm.log >&2; exit 1; }
	@# Where npm holds install scripts back, the package's own one still has to link its binary.
	@$(E2E)/node_modules/.bin/claude --version >/dev/null 2>&1 || \
		(cd $(E2E)/node_modules/@anthropic-ai/claude-code && node install.cjs)
	@$(E2E)/node_modules/.bin/claude --version | grep -F "$(CLAUDE_CODE)" || \
		{ echo "Claude Code $(CLAUDE_CODE) does not start" >&2; exit 1; }
	@touch $(E2E)/ready

serve: setup ## Start the gateway; the first start makes secrets, an administrator and a demo route
	@exec $(BIN)/python manage.py serve $(ARGS)

PYTEST := $(BIN)/python -m pytest
# Tests wait a lot: four at a time even on two processors, eight at most. Of the end-to-end tests, which start processes
# of their own, two files at a time, and those that measure alone.
AT_ONCE := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? 4 : n > 8 ? 8 : n)))
UNIT := $(PYTEST) -n $(AT_ONCE)
PAIRED := $(PYTEST) -n 2 --dist loadfile -rP
# With ARGS that choose tests, a run may be left with none.
CHOSEN = $(ARGS)$(if $(ARGS), || [ $$? = 5 ])
# The embedded database, apart from the one in var that may be in use.
# Where the tests run twice, the first time is without the compiled loops.
UNCOMPILED = $(if $(DATABASE_URL),CCPROXY_ENABLE_CYTHON=false)
EMBEDDED = env -u DATABASE_URL -u REDIS_URL CCPROXY_DATA_DIR=$(CURDIR)/build/embedded

test: setup ## Run the tests: on SQLite, and on PostgreSQL and Redis where DATABASE_URL and REDIS_URL name them
	@echo "Tests on SQLite"
	@$(UNCOMPILED) $(EMBEDDED) $(UNIT) -m "not e2e and not postgres" $(CHOSEN)
	@if [ -n "$$DATABASE_URL" ]; then \
		echo "Tests on the database of DATABASE_URL"; \
		$(UNIT) -m "not e2e" $(CHOSEN); \
	elif [ -n "$$CI" ]; then \
		echo "DATABASE_URL is not set, and in CI nothing may be left out" >&2; exit 1; \
	fi
	@if [ -e $(E2E)/ready ] || [ -n "$$CI" ]; then \
		echo "End-to-end tests"; \
		{ $(PAIRED) -m "e2e and not alone" $(CHOSEN); } && { $(PYTEST) -m "e2e and alone" --capture=tee-sys $(CHOSEN); }; \
	else \
		echo "The end-to-end tests were left out: make setup-e2e installs what they need"; \
	fi

ROUNDS := 100

torture: setup ## Kill a gateway under load ROUNDS times, then look for every answer in the ledger
	@$(BIN)/python -m ccproxy_site.tests.e2e.torture --rounds $(ROUNDS) $(ARGS)

siege: setup ## Attack a gateway with slow, hostile and vanishing clients; ARGS="--scenario vanish" takes one
	@$(BIN)/python -m ccproxy_site.tests.e2e.siege $(ARGS)

check: setup ## Format, lint, types, import contract, migrations
	@$(BIN)/ruff format --check --quiet --output-format concise . || { echo "Not formatted: $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(EMBEDDED) $(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(EMBEDDED) $(BIN)/python manage.py makemigrations --check --dry-run
	@$(EMBEDDED) $(BIN)/python manage.py check

conformance: setup ## Examine a gateway of our own, or another: ARGS="BASE_URL KEY"
	@$(BIN)/python manage.py conformance $(ARGS)

compatibility: setup ## Write docs/compatibility.md anew from the tables in the code
	@$(BIN)/python -m providers.dialects.compatibility

screenshots: setup ## Take the pictures in docs/screenshots anew; ARGS=--everything also dark and narrow
	@$(BIN)/python -m ccproxy_site.tests.e2e.screenshots $(ARGS)

bench: setup ## Measure CPU per request and per chunk beside a bare server
	@$(BIN)/python -m benchmarks $(ARGS)

PEERS_INSTALLED := $(PEERS)/litellm-$(LITELLM)-router-$(CLAUDE_CODE_ROUTER)

bench-peers: setup $(PEERS_INSTALLED) ## The same beside LiteLLM and claude-code-router, installed into .peers
	@$(BIN)/python -m benchmarks --peers $(ARGS)

$(PEERS_INSTALLED): | $(INSTALLED)
	@if ! command -v npm >/dev/null; then echo "npm is missing: install Node.js 20 or later" >&2; exit 1; fi
	@rm -rf $(PEERS)
	@mkdir -p $(PEERS)
	@echo "Installing LiteLLM $(LITELLM) (700 MB)"
	@$(BIN)/python -m venv $(PEERS)/litellm
	@$(PEERS)/litellm/bin/python -m pip install --quiet --disable-pip-version-check \
		"litellm[proxy]==$(LITELLM)" >$(PEERS)/pip.log 2>&1 || { tail -n 20 $(PEERS)/pip.log >&2; exit 1; }
	@echo "Installing claude-code-router $(CLAUDE_CODE_ROUTER)"
	@npm install --prefix $(PEERS) --no-save --no-package-lock --no-audit --no-fund --loglevel=error \
		@musistudio/claude-code-router@$(CLAUDE_CODE_ROUTER) >$(PEERS)/npm.log 2>&1 || { cat $(PEERS)/npm.log >&2; exit 1; }
	@touch $@

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-header

lock: $(INSTALLED) ## Write the requirements anew; ARGS=--upgrade takes later versions
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	@$(COMPILE) $(ARGS) --output-file requirements.txt pyproject.toml
	@$(COMPILE) $(ARGS) --output-file requirements-dev.txt --constraint requirements.txt --group dev pyproject.toml
	@$(COMPILE) $(ARGS) --output-file requirements-build.txt --constraint requirements-dev.txt --group build
	@! grep -nE '://|^-' requirements.txt requirements-dev.txt requirements-build.txt || \
		{ echo "The lock files must name no address" >&2; exit 1; }

clean: ## Remove what was built and installed; var, with its ledger, stays
	@rm -rf $(VENV) $(E2E) $(PEERS) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find accounting benchmarks ccproxy_site gateway providers -name __pycache__ -prune -exec rm -rf {} +
	@rm -f providers/_hot_c.*.so
