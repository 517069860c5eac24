# The one entry to everything. `make` alone lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

SSL ?= mae
SIZE ?= tiny
DATA ?= phantom
ARGS ?=
TASK ?= phantom
MODE ?=
BENCHES ?= throughput step memory clock
STEP_SIZE ?= vit_small
, := ,
ENCODER ?=
RUN_DIR ?= runs/$(SSL)_$(SIZE)_$(DATA)_$(shell date +%Y%m%d-%H%M%S)

names = $(notdir $(basename $(wildcard experiments/$(1)/*.yaml)))
check = $(if $(filter $(2),$(call names,$(1))),,$(error $(3)=$(2) is not in experiments/$(1); there are: $(call names,$(1))))

.PHONY: help setup pretrain finetune compare paper docs test test-slow lint format types figures bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  pretrain takes SSL=$(subst $() ,|,$(call names,objective)) SIZE=$(subst $() ,|,$(call names,size)) DATA=$(subst $() ,|,$(call names,data)) ARGS=\"--option=value ...\""
	@echo "  finetune takes TASK=$(subst $() ,|,$(call names,task))"

setup: $(VENV)/.installed ## make .venv and install the tested versions

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v else "cxrbase needs Python 3.11 or newer, $(PYTHON) is %d.%d: make PYTHON=/path/to/python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing about 6 GB of packages, a few minutes"
	$(BIN)/python -m pip install --no-compile --requirement requirements.lock --progress-bar on
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@# pip would compile all of it, on one core; what is left out here is compiled where it is first used
	@$(BIN)/python -m compileall -q -j 0 -x '/(tests|testing|transformers|ray|moto|sympy|sklearn)/' $(VENV)/lib || true
	@touch $@

pretrain: ## pretrain an encoder: SSL=mae|dino|simclr SIZE=tiny DATA=phantom
	@: $(call check,objective,$(SSL),SSL) $(call check,size,$(SIZE),SIZE) $(call check,data,$(DATA),DATA)
	@$(MAKE) --no-print-directory setup
	$(BIN)/cxrbase fit --config experiments/base.yaml --config experiments/objective/$(SSL).yaml \
	  --config experiments/size/$(SIZE).yaml --config experiments/data/$(DATA).yaml \
	  $(addprefix --config ,$(wildcard experiments/recipe/$(SSL)_$(SIZE).yaml)) --run_dir $(RUN_DIR) $(ARGS)

finetune: ## fit an encoder to a task: TASK=pneumonia ENCODER=runs/... MODE=finetune|probe|attentive
	@: $(call check,task,$(TASK),TASK)
	@$(MAKE) --no-print-directory setup
	$(BIN)/cxrbase fit --config experiments/task/$(TASK).yaml $(if $(ENCODER),--encoder $(ENCODER)) \
	  $(if $(MODE),--finetune.mode=$(MODE)) $(if $(filter command,$(origin RUN_DIR)),--run_dir $(RUN_DIR)) $(ARGS)

compare: setup ## compare the objectives at equal compute: ARGS="--budget images"
	$(BIN)/python benchmarks/compare_ssl.py --config experiments/compare.yaml $(ARGS)

paper: setup ## draw figures 2 to 4 of the paper: ARGS="--encoder from_scratch=runs/..."
	$(BIN)/cxrbase paper --config experiments/paper.yaml $(ARGS)

test: setup ## run the tests, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: setup ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## put style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## check types
	$(BIN)/mypy

figures: setup ## make the phantom and its contact sheet
	$(BIN)/cxrbase phantom --root data/phantom

docs: setup ## build the documentation into site/, warnings are errors
	@$(BIN)/python -c 'import mkdocs, material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet '.[docs]'
	$(BIN)/python benchmarks/tables.py --check
	$(BIN)/python -m mkdocs build --strict

bench: setup ## measure throughput, step time, memory and the clock on this machine: BENCHES="step clock" STEP_SIZE=vit_base
	$(BIN)/python benchmarks/bench.py --benches "[$(subst $() ,$(,),$(strip $(BENCHES)))]" --size $(STEP_SIZE) $(ARGS)

clean: ## remove runs, made data and caches; .venv stays
	rm -rf runs data/phantom .mypy_cache .ruff_cache .pytest_cache .hypothesis build
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
