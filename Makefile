# make reproduce | test | results | figures | bench | test-all | check | clean
# Every target first creates .venv and installs requirements.txt, unless that was done already.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: reproduce test test-all results figures bench check clean

test: .venv/installed
	$(BIN)/python -m pytest

test-all: .venv/installed
	$(BIN)/python -m pytest -m "slow or not slow"

check: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf .venv results/scratch figures/out/quick .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
