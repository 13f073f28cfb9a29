# make demo: set up and run the whole job on the phantom. make test: set up and run all checks.
# A machine without a GPU may choose its torch: make test TORCH=torch==2.13.0
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch
BIN := $(VENV)/bin

N ?= 5000

.PHONY: browser cluster demo test coverage fuzz lint hooks docs reference next clean help

help:
	@echo "make demo      set up $(VENV) and run the whole job on the phantom"
	@echo "make test      set up $(VENV), run linters and tests"
	@echo "make cluster   as root on Debian or Ubuntu: install SLURM, for the tests that use it"
	@echo "make browser   as root on Debian or Ubuntu: install Chromium, for the tests of pages"
	@echo "make coverage  run the tests, show which lines none of them reaches, and raise the floor in pyproject.toml"
	@echo "make fuzz      give N=5000 damaged and hostile files to each reader; SEED= chooses others"
	@echo "make hooks     run the linters before each commit"
	@echo "make docs      build the site of the documents in build/site, and check its links"
	@echo "make reference write the pages of docs/reference that the code gives"
	@echo "make next      try the next version of Hydra, in an environment of its own"
	@echo "make clean     remove $(VENV)"

# Groups of dependencies (PEP 735) need pip 25.1, which is newer than what Python 3.11 brings.
$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet "$(TORCH)" --editable ".[train]" --group dev
	touch $@

demo: $(VENV)/.ready
	$(BIN)/segflow demo

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The floor is the whole percentage that the report shows: the report fails below it, so that it can only rise.
coverage: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report= --cov-fail-under=0
	$(BIN)/coverage report
	total=$$($(BIN)/coverage report --format=total) && \
	  sed -i.old "s/^fail_under = .*/fail_under = $${total%.*}/" pyproject.toml && rm pyproject.toml.old
	touch $(VENV)/.ready

# Without SLURM its tests are skipped, so that nothing here fails.
cluster:
	@{ command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && timeout 30 apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive timeout 60 apt-get install -y -qq --no-install-recommends slurm-wlm munge; } \
	  >/dev/null 2>&1 || echo "no SLURM here: its tests will be skipped"

# Without a browser the tests that look at pages are skipped, so that nothing here fails.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && timeout 30 apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive timeout 120 apt-get install -y -qq --no-install-recommends chromium; } \
	  >/dev/null 2>&1 || echo "no Chromium here: tests that look at pages will be skipped"

hooks: $(VENV)/.ready
	$(BIN)/pre-commit install

reference: $(VENV)/.ready
	$(BIN)/python scripts/write_reference.py

docs: reference
	$(BIN)/zensical build --strict --clean
	$(BIN)/python scripts/check_site.py build/site

fuzz: $(VENV)/.ready
	SEGFLOW_FUZZ_N=$(N) SEGFLOW_FUZZ_SEED=$(SEED) $(BIN)/python -m pytest tests/fuzz -q

# The next version of Hydra, which pyproject.toml does not allow yet, with its Optuna plugin. It may fail.
next:
	test -x build/next/bin/python || $(PYTHON) -m venv build/next
	build/next/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	build/next/bin/python -m pip install --quiet "$(TORCH)" --editable ".[train]" --group test
	build/next/bin/python -m pip install --quiet --pre "hydra-core>=1.4.0rc3" "hydra-optuna-sweeper>=1.4.0rc3"
	build/next/bin/python -m pytest -n 2 --dist loadfile tests/apps/test_configs.py tests/apps/test_messages.py \
	  tests/apps/test_command_line.py tests/apps/test_own_parts.py tests/apps/test_sweeper.py

clean:
	rm -rf $(VENV) build/next
