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
STAGE1  ?=
CHECKPOINT ?= runs/finetune
WHAT    ?= policy
WORKERS ?=
JOB     ?= curate
ADDRESS ?=
ARGS    ?=
# Of train-sample; by default what `handloom demo --help` says.
EPISODES      ?=
STAGE1_STEPS  ?=
STAGE2_STEPS  ?=
PICTURE_STEPS ?=
TRIES         ?=
TASKS         ?=

# Files stay together, for they share fixtures; all that use one Ray come first (tests/conftest.py).
PARALLEL = -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

PLACES   = $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)")
OPTIONS  = $(PLACES) $(if $(CONFIG),--config "$(CONFIG)") $(ARGS)
PRETRAIN = pretrain --shards $(SHARDS) --size $(SIZE) $(if $(OUT),--out "$(OUT)") $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

FINETUNE = finetune --shards $(SHARDS) $(if $(STAGE1),--stage1 "$(STAGE1)") $(if $(OUT),--out "$(OUT)") $(ARGS)
EVAL     = $(WHAT) --checkpoint "$(CHECKPOINT)" $(if $(filter policy,$(WHAT)),--shards $(SHARDS)) $(if $(OUT),--out "$(OUT)") $(ARGS)

SCALING  = scaling --shards $(SHARDS) $(if $(OUT),--out "$(OUT)") $(ARGS)
# What JOB names, for `make submit`.
JOB_curate   = curate $(DATASET) $(OPTIONS)
JOB_pretrain = train $(PRETRAIN)
JOB_finetune = train $(FINETUNE)
JOB_scaling  = train $(SCALING)
JOB_eval     = eval $(EVAL)

STEPS    = $(if $(STAGE1_STEPS),--stage1-steps $(STAGE1_STEPS)) $(if $(STAGE2_STEPS),--stage2-steps $(STAGE2_STEPS)) $(if $(PICTURE_STEPS),--picture-steps $(PICTURE_STEPS))
DEMO     = $(if $(OUT),--out "$(OUT)") $(if $(EPISODES),--episodes $(EPISODES)) $(STEPS) $(if $(TRIES),--tries $(TRIES)) $(if $(TASKS),--tasks $(TASKS)) $(ARGS)

.PHONY: help setup curate plan submit pretrain finetune eval scaling train-sample claim report test-fast test test-all lint types bench
.DEFAULT_GOAL := help

help:  ## show this, and the variables
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-14s %s\n", $$1, $$2} /^[A-Z0-9_]+ *\?=/{sub(/ *\?=.*/, ""); names = names " " $$0} END{print "variables:" names}' Makefile

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

submit: $(READY)  ## JOB=curate|pretrain|finetune|scaling|eval on a running Ray cluster: ADDRESS=http://HOST:8265
	$(BIN)/python -m handloom submit $(or $(JOB_$(JOB)),$(error JOB=$(JOB) is not curate, pretrain, finetune, scaling or eval)) $(if $(ADDRESS),--address $(ADDRESS))

pretrain: $(READY)  ## stage-1 training: SHARDS="DIR ..." SIZE=tiny|s|b|l|xl [OUT=...] [WORKERS=...]
	$(BIN)/python -m handloom train $(PRETRAIN)

finetune: $(READY)  ## stage-2 training: SHARDS="DIR ..." of robot episodes, STAGE1=DIR [OUT=...]
	$(BIN)/python -m handloom train $(FINETUNE)

eval: $(READY)  ## a policy on held-out episodes, or WHAT=rollout on the tabletop: CHECKPOINT=DIR SHARDS="DIR ..."
	$(BIN)/python -m handloom eval $(EVAL)

scaling: $(READY)  ## validation loss against size and tokens: SHARDS="DIR ..." [OUT=...] [ARGS="--sizes s b l xl"]
	$(BIN)/python -m handloom train $(SCALING)

train-sample: $(READY)  ## raw videos and episodes to a policy and OUT/report.html, 15 minutes on 2 cores: [OUT=...]
	$(BIN)/python -m handloom demo $(DEMO)

claim: $(READY)  ## what videos of hands are worth to a robot, to OUT/report.html: an hour on 2 cores [OUT=...] [ARGS=--quick]
	$(BIN)/python -m handloom claim $(if $(OUT),--out "$(OUT)") $(ARGS)

report: $(READY)  ## write the report of a run again: OUT=runs/sample
	$(BIN)/python -m handloom report "$(if $(OUT),$(OUT),runs/$(DATASET))"

test-fast: $(READY)  ## the tests that take no seconds, of every folder: about a minute
	$(BIN)/python -m pytest -m "not slow and not long" $(PARALLEL)

test: $(READY)  ## the test suite
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-all: $(READY)  ## the test suite with its minutes-long parts
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(READY)  ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy --cache-dir build/mypy -p handloom

bench: $(READY)  ## the benchmarks, minutes each; one that says what it lacks (a GPU) is left out
	for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || [ $$? = 2 ] || exit 1; done
