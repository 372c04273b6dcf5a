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

# Much of a run is waiting for Ray to start; files stay together, for they share miniatures.
PARALLEL = -n 2 --dist loadfile

PLACES   = $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)")
OPTIONS  = $(PLACES) $(if $(CONFIG),--config "$(CONFIG)") $(ARGS)
PRETRAIN = pretrain --shards $(SHARDS) --size $(SIZE) $(if $(OUT),--out "$(OUT)") $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

FINETUNE = finetune --shards $(SHARDS) $(if $(STAGE1),--stage1 "$(STAGE1)") $(if $(OUT),--out "$(OUT)") $(ARGS)
EVAL     = $(WHAT) --checkpoint "$(CHECKPOINT)" $(if $(filter policy,$(WHAT)),--shards $(SHARDS)) $(if $(OUT),--out "$(OUT)") $(ARGS)

.PHONY: help setup curate plan submit pretrain finetune eval scaling train-sample report test test-all lint types bench
.DEFAULT_GOAL := help

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile | column -t -s:
	@echo "variables: DATASET DATA OUT CONFIG SIZE SHARDS STAGE1 CHECKPOINT WHAT WORKERS JOB ADDRESS ARGS"

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

finetune: $(READY)  ## stage-2 training: SHARDS="DIR ..." of robot episodes, STAGE1=DIR [OUT=...]
	$(BIN)/python -m handloom train $(FINETUNE)

eval: $(READY)  ## a policy on held-out episodes, or WHAT=rollout on the tabletop: CHECKPOINT=DIR SHARDS="DIR ..."
	$(BIN)/python -m handloom eval $(EVAL)

scaling: $(READY)  ## validation loss against size and tokens: SHARDS="DIR ..." [OUT=...] [ARGS="--sizes s b l xl"]
	$(BIN)/python -m handloom train scaling --shards $(SHARDS) $(if $(OUT),--out "$(OUT)") $(ARGS)

# All sizes of `make train-sample`. CPU seconds of its parts, measured on two cores that others used too,
# so that they are high: demonstrations 75, their curation 250 (two workers), stage 1 60, stage 2 410,
# pictures 150, scores 45 each, rollouts 45. With 1,500 and 200 steps a run took 16 minutes beside others.
EPISODES      ?= 180
STAGE1_STEPS  ?= 200
STAGE2_STEPS  ?= 1000
PICTURE_STEPS ?= 150
TRIES         ?= 36
TASKS         ?= open_drawer close_drawer move_slider_left move_slider_right turn_on_lightbulb turn_off_lightbulb

train-sample: HANDLOOM = $(BIN)/python -m handloom
train-sample: TO       = $(if $(OUT),$(OUT),runs/train-sample)
train-sample: TUNE     = $(HANDLOOM) train finetune --shards "$(TO)/robot/shards" --stage1 "$(TO)/stage1" --history 1
train-sample: SCORE    = $(HANDLOOM) eval policy --shards "$(TO)/robot/shards" --windows 200 --clips 2 --frames 4
train-sample: ROLL     = $(HANDLOOM) eval rollout --single --tasks $(TASKS) --chains $(TRIES) --words trained --steps-per-task 180
# Training and curation know when they are finished; evaluations are done again after new training only.
train-sample: $(READY)  ## raw videos and episodes to a policy and OUT/report.html, 15 minutes on 2 cores: [OUT=...]
	$(HANDLOOM) sample tabletop --out "$(TO)/robot-raw" --clips $(EPISODES) --tasks $(TASKS)
	$(HANDLOOM) curate calvin --data "$(TO)/robot-raw" --out "$(TO)/robot" --tokens.model bundled-128
	$(HANDLOOM) curate sample --out "$(TO)/human" --tokens.model bundled-128
	$(HANDLOOM) train pretrain --shards "$(TO)/human/shards" --out "$(TO)/stage1" --steps $(STAGE1_STEPS)
	$(TUNE) --out "$(TO)/stage2" --mode frozen+cached --steps $(STAGE2_STEPS) --batch-size 32
	$(TUNE) --out "$(TO)/stage2-full" --mode full --steps $(PICTURE_STEPS) --batch-size 8 --loss.video 1
	test "$(TO)/scores/scores.json" -nt "$(TO)/stage2/summary.json" || $(SCORE) --checkpoint "$(TO)/stage2" --out "$(TO)/scores"
	test "$(TO)/scores-full/scores.json" -nt "$(TO)/stage2-full/summary.json" || $(SCORE) --checkpoint "$(TO)/stage2-full" --out "$(TO)/scores-full"
	test "$(TO)/rollouts/policy/rollout.json" -nt "$(TO)/stage2/summary.json" || $(ROLL) --checkpoint "$(TO)/stage2" --out "$(TO)/rollouts/policy" --videos 6
	test -f "$(TO)/rollouts/random/rollout.json" || $(ROLL) --actor random --out "$(TO)/rollouts/random" --videos 0
	test -f "$(TO)/rollouts/oracle/rollout.json" || $(ROLL) --actor oracle --out "$(TO)/rollouts/oracle" --videos 0
	$(HANDLOOM) train report --out "$(TO)"

report: $(READY)  ## write the report of a run again: OUT=runs/sample
	$(BIN)/python -m handloom report "$(if $(OUT),$(OUT),runs/$(DATASET))"

test: $(READY)  ## the test suite
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-all: $(READY)  ## the test suite with its minutes-long parts
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(READY)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy --cache-dir build/mypy -p handloom

bench: $(READY)  ## the benchmarks, minutes each
	for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done
