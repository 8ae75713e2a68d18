# Set-up, demo and tests. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# glibc keeps freed memory, which Linux would clear anew for every large tensor: 5 % of the time of tests and of trainings.
KEEP_MEMORY = MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296

.DEFAULT_GOAL := help
.PHONY: help install demo demo-tracking test test-all test-fast timm-source lint docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

install:  ## create or update .venv with everything (nothing to do the second time)
	@$(PYTHON) tools/make_environment.py $(VENV)

demo: install  ## make data, train spiking detectors and a segmentor, evaluate, write an HTML report (about 5 minutes on two idle cores)
	@$(KEEP_MEMORY) $(RUN) tools/demo.py

demo-tracking: install  ## render event recordings, train two small trackers, test them, write a video and an HTML page (sized for 10 minutes on two cores)
	@$(KEEP_MEMORY) $(RUN) tools/demo_tracking.py

test: install  ## run the tests, one process per core; of a check on many models or configs the first and the last
	@$(KEEP_MEMORY) $(RUN) -m pytest -q -n auto --dist worksteal --sample

test-all: install  ## run each test, those on many models and configs on each of them
	@$(KEEP_MEMORY) $(RUN) -m pytest -q -n auto --dist worksteal

test-fast: install  ## run the tests that take seconds
	@$(KEEP_MEMORY) $(RUN) -m pytest -q -n auto --dist worksteal -m "not slow"

timm-source: install  ## download timm's source distribution to .timm, so that the tests run timm's own tests on our models
	@version=$$($(RUN) -c "import timm; print(timm.__version__)") && test -d .timm/timm-$$version || \
	  ($(RUN) -m pip download -q --no-deps --no-binary timm -d .timm "timm==$$version" && tar -xzf .timm/timm-$$version.tar.gz -C .timm)

lint: install  ## ruff and mypy
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check sterf_plugins tests tools benchmarks && $(RUN) -m mypy

docs: install  ## build the documentation site in build/site; a warning is an error
	@$(RUN) docs/build_site.py

clean:  ## remove the environment, caches and builds; data/ and work_dirs/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
