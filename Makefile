# Everything that a person or a machine does with the book. `make` alone lists it.
PROFILE ?= laptop
CELL_TIMEOUT ?= 900
PYTHON ?= python3
PROFILES := smoke laptop gpu
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup book pdf test lab lint format outputs bench gpu results lock doctor clean check-profile

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo
	@echo "PROFILE=smoke|laptop|gpu chooses how large the runs are (now: $(PROFILE))."
	@echo "CELL_TIMEOUT=$(CELL_TIMEOUT) is how many seconds one cell may take: give more on a busy machine."
	@echo "DWC_CACHE=FOLDER keeps pictures, features and shared runs there (now: $(or $(DWC_CACHE),.cache));"
	@echo "'python -m dwclib empty-cache' empties it."

setup: $(READY) ## make the virtual environment (the others do it when needed)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	  { echo "The book needs Python 3.11 to 3.14; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Fetching some 240 packages, of which torch is the largest; this is done once."
	$(RUN) -m pip install -r requirements.lock
	$(RUN) -m pip install --no-deps -e .
	@touch $@

check-profile:
	@case " $(PROFILES) " in *" $(PROFILE) "*) ;; \
	  *) echo "There is no profile '$(PROFILE)'. Use one of: $(PROFILES)."; exit 2;; esac

book: check-profile $(READY) ## execute the notebooks and build the site: _build/html/index.html
	$(RUN) -m dwclib book --profile $(PROFILE) --cell-timeout $(CELL_TIMEOUT)

pdf: $(READY) ## print the site that 'make book' has built as one PDF: _build/html/dwc-book.pdf
	$(RUN) -m dwclib pdf

# Two processes share the tests by file, in the order of tests/conftest.py.
test: lint ## run all tests
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lab: $(READY) ## open the notebooks in JupyterLab
	$(RUN) -m dwclib lab -- $(LAB_OPTIONS)

lint: $(READY) ## check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(READY) ## bring code and notebooks into the one form
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(RUN) -m dwclib check-notebooks --mend

outputs: $(READY) ## execute the smoke profile and store the outputs that the tests compare
	$(RUN) -m dwclib store-outputs --cell-timeout $(CELL_TIMEOUT)

# The conftest above, which checks every shape, would slow what is timed.
BENCH := $(RUN) -m pytest tests/bench/compared.py --confcutdir tests/bench --benchmark-group-by=param:compared \
  --benchmark-columns=median,iqr,rounds
bench: $(READY) ## measure this machine: data/results/benchmarks/
	$(BENCH)

results: $(READY) check-profile ## compute the experiments' missing rows, keep what notebooks measured: data/results/
	$(RUN) -m dwclib experiment --profile $(PROFILE)
	$(RUN) -m dwclib results --profile $(PROFILE)

# One command a notebook and a benchmark, each of them under 9 minutes on a data-centre GPU; every one goes
# on from what the ones before have left.
GPU_NOTEBOOKS := 03 04 05 06 07 08 09 10 11 12 13 14 15 16
GPU_GRIDS := power ablations-clip tuning longer noise ablations-both tuning-both
BENCHMARKS := step settings store ranking memory throughput
gpu: $(addprefix gpu-grid-,$(GPU_GRIDS)) $(addprefix gpu-,$(GPU_NOTEBOOKS)) $(addprefix gpu-bench-,$(BENCHMARKS)) ## the gpu profile, and the benchmark on a GPU

gpu-grid-%: gpu-ready # stops in time, with an error while rows are missing; the next call goes on
	$(RUN) -m dwclib experiment $* --profile gpu --device cuda --minutes 7

gpu-bench-%: gpu-ready
	$(BENCH) --device cuda --only $*

gpu-%: gpu-ready
	$(RUN) -m dwclib book --profile gpu --only $* --cell-timeout $(CELL_TIMEOUT)
	$(RUN) -m dwclib results --profile gpu

gpu-ready: $(READY)
	@$(RUN) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || \
	  { echo "torch sees no GPU here. On a CPU: make book PROFILE=laptop, make results, make bench."; exit 1; }

lock: ## write requirements.lock anew from pyproject.toml
	$(PYTHON) -m venv .cache/lock && .cache/lock/bin/pip install --quiet uv
	.cache/lock/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --fork-strategy fewest --no-header --no-annotate --quiet -o requirements.lock

doctor: ## say what is here and what is broken: versions, machine, cache, weights
	@$(RUN) -m dwclib doctor

clean: ## remove _build/, .cache/, build/, dist/ and the tools' caches; not .venv/, runs/ or $DWC_CACHE
	rm -rf _build .cache build dist *.egg-info .benchmarks .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
