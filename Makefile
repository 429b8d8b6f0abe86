# `make quickstart` and `make test` set everything up on a fresh machine and run.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
FEV_VENV ?= .venv-fev
FEV_RUN := $(FEV_VENV)/bin/python
OUT ?= runs/quickstart
JOBS ?= $(shell $(PYTHON) -c "import os; print(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())")

# Threads that wait sleep instead of spinning: on a busy machine training is several times faster.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help env quickstart completion pretrained test test-all test-fev bench lint

help:
	@echo "make quickstart   generate a dataset, train a small dystformer, score it, write card and figures ($(OUT))"
	@echo "make completion   pre-train an encoder on that dataset by masked modelling, score how it fills gaps"
	@echo "make pretrained   the quickstart's forecaster, started from that encoder"
	@echo "make test         the default test suite"
	@echo "make test-all     the slow tests too"
	@echo "make test-fev     the tests of the fev adapter, in an environment of its own"
	@echo "make bench        measured speeds"
	@echo "make lint         ruff and pyright"

env: $(VENV)/.installed

# torch first: with it installed at the pinned version, nothing below pulls another build.
$(VENV)/.installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint .ci/constraints.txt torch
	$(RUN) -m pip install --quiet --constraint .ci/constraints.txt --editable '.[data,plot,chronos,eval,fracast,demo,dev]'
	touch $@

quickstart: env
	$(RUN) -m data_generation --config data_generation/configs/quickstart.yaml --output $(OUT)/data --jobs $(JOBS)
	$(RUN) -m training.train --config training/configs/quickstart.yaml --data.path $(OUT)/data --training.output_dir $(OUT)/model
	$(RUN) -m training.evaluate_checkpoint $(OUT)/model --data $(OUT)/data

completion: env
	$(RUN) -m training.train --config training/configs/pretrain.yaml --data.path $(OUT)/data --training.output_dir $(OUT)/completion
	$(RUN) -m training.evaluate_completion $(OUT)/completion --data $(OUT)/data

pretrained: env
	$(RUN) -m training.train --config training/configs/quickstart.yaml --data.path $(OUT)/data --encoder_checkpoint $(OUT)/completion --training.output_dir $(OUT)/pretrained --evaluation.name dystformer-pretrained --evaluation.model_id model_cards/dystformer-pretrained
	$(RUN) -m training.evaluate_checkpoint $(OUT)/pretrained --data $(OUT)/data

test: env
	$(RUN) -m pytest --numprocesses $(JOBS)

test-all: env
	$(RUN) -m pytest --numprocesses $(JOBS) -m 'not gpu and not bench'

# fev needs datasets < 5: an environment of its own, where this package is installed without its dependencies.
$(FEV_VENV)/.installed: pyproject.toml .ci/constraints-fev.txt
	$(PYTHON) -m venv $(FEV_VENV)
	$(FEV_RUN) -m pip install --quiet --constraint .ci/constraints-fev.txt torch
	$(FEV_RUN) -m pip install --quiet --constraint .ci/constraints-fev.txt fev accelerate gluonts jinja2 joblib jsonargparse numba pytest pytest-benchmark scipy transformers
	$(FEV_RUN) -m pip install --quiet --no-deps --editable .
	touch $@

test-fev: $(FEV_VENV)/.installed
	$(FEV_RUN) -m pytest tests/adapters

bench: env
	$(RUN) -m pytest tests/benchmarks -m bench --benchmark-enable -s

lint: env
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright
