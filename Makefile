# make demo: set up and run the whole job on the phantom. make test: set up and run all checks.
# A machine without a GPU may choose its torch: make test TORCH=torch==2.13.0
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch
BIN := $(VENV)/bin

N ?= 5000

.PHONY: demo test fuzz lint clean help

help:
	@echo "make demo   set up $(VENV) and run the whole job on the phantom"
	@echo "make test   set up $(VENV), run linters and tests"
	@echo "make fuzz   give N=5000 damaged and hostile files to each reader; SEED= chooses others"
	@echo "make clean  remove $(VENV)"

$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e ".[dev]"
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

fuzz: $(VENV)/.ready
	SEGFLOW_FUZZ_N=$(N) SEGFLOW_FUZZ_SEED=$(SEED) $(BIN)/python -m pytest tests/fuzz -q

clean:
	rm -rf $(VENV)
