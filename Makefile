# Every target does its own set-up: a fresh clone needs Python 3.11 or newer and make, nothing else.

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
VENV    ?= .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.handloom-ready

DATASET ?= sample
DATA    ?=
OUT     ?=
CONFIG  ?=
SIZE    ?= tiny
SHARDS  ?= runs/sample/shards
WORKERS ?=
JOB     ?= curate
ADDRESS ?=
ARGS    ?=

# Much of a run is waiting for Ray to start; files stay together, for they share miniatures.
PARALLEL = -n 2 --dist loadfile

PLACES   = $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)")
OPTIONS  = $(PLACES) $(if $(CONFIG),--config "$(CONFIG)") $(ARGS)
PRETRAIN = pretrain --shards $(SHARDS) --size $(SIZE) $(if $(OUT),--out "$(OUT)") $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

.PHONY: help setup curate plan submit pretrain scaling report test test-all lint types bench
.DEFAULT_GOAL := help

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile | column -t -s:
	@echo "variables: DATASET DATA OUT CONFIG SIZE SHARDS WORKERS JOB ADDRESS ARGS"

setup: $(READY)  ## make .venv with everything in it

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "handloom needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

curate: $(READY)  ## videos to token shards: DATASET=sample|ego4d|rt1|... [DATA=...] [OUT=...]
	$(BIN)/python -m handloom curate $(DATASET) $(OPTIONS)

plan: $(READY)  ## what curate would do
	$(BIN)/python -m handloom plan $(DATASET) $(OPTIONS)

submit: $(READY)  ## curate, or JOB=pretrain WORKERS=8, on a running Ray cluster: ADDRESS=http://HOST:8265
	$(BIN)/python -m handloom submit $(if $(filter pretrain,$(JOB)),$(PRETRAIN),$(DATASET) $(OPTIONS)) $(if $(ADDRESS),--address $(ADDRESS))

pretrain: $(READY)  ## stage-1 training: SHARDS="DIR ..." SIZE=tiny|s|b|l|xl [OUT=...] [WORKERS=...]
	$(BIN)/python -m handloom train $(PRETRAIN)

scaling: $(READY)  ## validation loss against size and tokens: SHARDS="DIR ..." [OUT=...] [ARGS="--sizes s b l xl"]
	$(BIN)/python -m handloom train scaling --shards $(SHARDS) $(if $(OUT),--out "$(OUT)") $(ARGS)

report: $(READY)  ## write the report of a run again: OUT=runs/sample
	$(BIN)/python -m handloom report "$(if $(OUT),$(OUT),runs/$(DATASET))"

test: $(READY)  ## the test suite
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-all: $(READY)  ## the test suite with its minutes-long parts
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(READY)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type checkers cannot follow the __path__ that joins the folders to the package, so they are shown
# a tree of links in which the package is whole.
TYPED := build/typing/handloom
types: $(READY)  ## mypy, strict
	rm -rf build/typing && mkdir -p $(TYPED)
	ln -s $(CURDIR)/handloom/*.py $(CURDIR)/handloom/py.typed $(TYPED)/
	for folder in pipeline stages tokenize train; do ln -s $(CURDIR)/$$folder $(TYPED)/$$folder; done
	MYPYPATH=build/typing $(BIN)/mypy --cache-dir build/mypy -p handloom

bench: $(READY)  ## the benchmarks, minutes each
	for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done
