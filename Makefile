# Two commands for a newcomer:   make        every result and the page, in .venv
#                                make test   the whole test suite, in the same .venv
# Both build the environment first, if it is not there yet. ARGS goes on to snakemake or pytest:
#   make ARGS="--config preset=small"      make test ARGS="-m 'not slow'"

PYTHON ?= python3
BIN    := .venv/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar off -c constraints.txt

# pip names each package that it finds; the rest of its words is for errors, which come on stderr.
SHOW   := awk '/^Collecting / { split($$2, name, /[=<>!~;[]/); printf "%s%s", found++ ? " " : "  ", name[1]; fflush() } \
           /^ *Downloading .* MB\)$$/ { printf " %s %s", $$(NF-1), $$NF; fflush() } \
           /^Installing collected/ { printf "\n  installing %d packages\n", found; fflush() } END { if (found) print "" }'
SHELL  := bash

# An environment is finished when its stamp exists: the stamp is written last and named by what the environment was made
# from (a moved .venv does not work, hence the folder), so neither a touched file nor a switched branch rebuilds anything.
PINS    := $(shell { pwd; cat constraints.txt requirements.txt requirements-dev.txt; } | cksum | cut -d ' ' -f 1)
RUNTIME := .venv/.runtime-$(PINS)
DEV     := .venv/.dev-$(PINS)

# Settings of the caller that would mix packages from elsewhere into .venv, or install into elsewhere.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX

.PHONY: all test lint clean distclean

all: $(RUNTIME)
	$(BIN)/snakemake --cores all all $(ARGS)
	@printf 'All pages: %s/report/html/index.html\n' "$$PWD"

# A worker for each core; the tests of one file share what they make. ARGS="-n 0" runs them one after another.
test: $(DEV)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror methods/engine/c/*.[ch]
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# Every product, trained models included; the environment and what git keeps stay.
clean:
	mkdir -p results
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf report/html .snakemake

distclean: clean
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is worth nothing once the Python behind .venv is gone.
ifneq ($(shell test -x $(BIN)/python && echo alive),alive)
.PHONY: $(RUNTIME) $(DEV)
endif

# One line for a Python that will not do, before anything is removed or made.
can = $(shell $(PYTHON) -c '$(1)' 2>/dev/null && echo yes)
TOO_OLD = Python 3.11 or newer is needed and "$(PYTHON)" is not: name one, as in  make PYTHON=python3.12
NO_VENV = "$(PYTHON)" cannot make environments: add its venv module (Debian, Ubuntu: apt install python3-venv)

# Always from an empty folder: pip takes a package that it was killed in the middle of for an installed one.
# torch comes first and alone, so that a CPU build is taken where the machine's pip settings offer one.
$(RUNTIME):
	$(if $(call can,import sys; assert sys.hexversion >= 0x030B0000),,$(error $(TOO_OLD)))
	$(if $(call can,import venv; import ensurepip),,$(error $(NO_VENV)))
	@echo "Making .venv, once: PyTorch first, then the rest. This takes some minutes."
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@set -o pipefail; $(PIP) $$(grep '^torch==' requirements.txt) | $(SHOW)
	@set -o pipefail; $(PIP) -r requirements.txt | $(SHOW)
	@touch $@

# The stamps are away while pip works, so that being killed here too leads to a fresh start.
$(DEV): | $(RUNTIME)
	@echo "Adding the test and lint tools to .venv."
	@rm -f $(RUNTIME)
	@set -o pipefail; $(PIP) -r requirements-dev.txt | $(SHOW)
	@touch $(RUNTIME) $@
