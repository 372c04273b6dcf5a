"""The training loop of stage 2.

OUT/checkpoints/        see train/trainer/checkpoints.py
OUT/metrics.jsonl       a line per step and per validation; OUT/tensorboard/ too
OUT/export/             the model for `Policy`, see export.py
OUT/summary.json        the closing numbers; written last, so a run that has it is finished
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handloom.errors import RunError
from handloom.train.finetune import features, validate
from handloom.train.finetune.config import FinetuneConfig
from handloom.train.finetune.log import Log, Step
from handloom.train.finetune.model import Inputs
from handloom.train.finetune.task import Job
from handloom.train.finetune.windows.windows import Batch
from handloom.train.trainer.distributed import gradients_meet, join
from handloom.train.trainer.loop import memory_error_as_a_sentence, sigterm
from handloom.train.trainer.optimizer import set_rate, update
from handloom.train.trainer.whole_files import write_atomically


def run(config: FinetuneConfig) -> None:
    """Train from the newest checkpoint, or from the start, to the summary."""
    with join(config.device) as world:
        job = Job(config, world)
        if job.is_finished():
            if world.is_first:
                where = f"{config.out} holds this run, finished"
                print(f"{where}: nothing to do (--no-resume starts again)")
            return
        job.describe()
        if config.mode == "frozen+cached":
            store_features(job)
        log = Log(job)
        try:
            with sigterm() as stop_asked:
                train(job, log, stop_asked)
        finally:
            job.checkpoints.settle()  # its thread still needs the other processes
        if world.is_first:
            finish(job, log)


def train(job: Job, log: Log, stop_asked: Callable[[], bool]) -> None:
    """The loop. A step never waits for the device: the log reads the losses in bunches."""
    config, batches = job.config, job.batches()
    log.restart_clock()
    while job.step < config.steps:
        batch = log.timed(lambda: next(batches))
        with memory_error_as_a_sentence(job.micro_batch, "windows", job.world):
            step = take_step(job, batch)
        job.step, job.position = job.step + 1, batch.position
        log.add(step)

        last, stop = job.step == config.steps, job.world.any(stop_asked())
        validating, saving = last or _due(job, config.val_every), _due(job, config.save_every)
        saving |= last or stop
        if validating or saving or _due(job, config.log_every):
            log.flush()
            job.checkpoints.check()
            if validating:
                if job.world.is_first:
                    log.validation(job.step, validate.evaluate(job))
                job.world.barrier()
            if saving:
                job.save()
            log.restart_clock()
        if last or stop:
            job.checkpoints.wait()
        if stop and not last:
            raise RunError(
                f"stopped by SIGTERM after step {job.step} of {config.steps}; the checkpoint is "
                f"in {config.out}, the same command goes on from there."
            )


def take_step(job: Job, batch: Batch) -> Step:
    """Accumulate the gradient of a batch and update the model; see `train.loop.take_step`."""
    set_rate(job.optimizer, job.step, job.config)
    job.seed_draws()
    inputs, micro, told = job.inputs(batch), job.micro_batch, []
    count = len(inputs.codes_Bn)
    for start in range(0, count, micro):
        with gradients_meet(job.objective, meet=start + micro >= count):
            loss, parts = loss_of(job, part_of(inputs, slice(start, start + micro)))
            share = micro / count
            # NaN here reaches the norm, and by it all processes, with no message of its own.
            poison = torch.where(loss.isfinite(), share, torch.nan)
            loss.backward(poison)  # type: ignore[no-untyped-call]
        told.append(parts)
    norm = update(job.trained, job.optimizer, job.config.clip)
    return Step(job.step + 1, torch.stack(told).mean(0), norm, batch)


def loss_of(job: Job, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The loss, and what the log tells: loss, video, arm, gripper, KL, [5]."""
    options = job.config.loss
    kl_share = min(1.0, (job.step + 1) / max(1, options.kl_warmup))
    with job.autocast():
        losses, _ = job.objective(inputs, options.free_bits, job.predicts_video)
    total = losses.total(options, kl_share)
    parts = [total, losses.video, losses.arm, losses.gripper, losses.kl]
    return total, torch.stack([part.detach().float() for part in parts])


def part_of(inputs: Inputs, part: slice) -> Inputs:
    """Some of the windows."""
    parts: list[Any] = [None if value is None else value[part] for value in inputs]
    return Inputs(*parts)


@torch.no_grad()
def store_features(job: Job) -> None:
    """Compute what the frozen GPT makes of every window, once; rank 0 does it for all."""
    folder = job.config.features or job.config.out / "features"
    shape = job.shape
    size_MX = int(np.prod(shape.grid)), shape.feature_width
    for split, windows in (("train", job.train), ("val", job.val)):
        conditions = [asdict(shape.trunk), shape.history, job.config.stride, shape.head.pool]
        conditions += [job.identity()["stage 1"], windows.fingerprint(), list(shape.views)]
        path = features.path_of(folder, split, conditions)

        def compute(numbers: range, windows=windows) -> Tensor:  # type: ignore[no-untyped-def]
            batch = windows.read(np.arange(numbers.start, numbers.stop))
            with job.autocast():
                found: Tensor = job.trained.features(job.inputs(batch))
            return found

        if job.world.is_first:
            features.store(path, len(windows), size_MX, compute)
        job.world.barrier()
        job.stored[split] = features.StoredFeatures(path)


def finish(job: Job, log: Log) -> None:
    """Export, say what was reached, write the summary that ends the run."""
    job.export()
    found = validate.evaluate(job)
    print("\n".join(["", *validate.table(found)]))
    summary = {"step": job.step, "val": asdict(found), "run": job.checkpoints.identity}
    write_atomically(job.config.out / "summary.json", json.dumps(summary, indent=2) + "\n")
    log.close()


def _due(job: Job, every: int) -> bool:
    return every > 0 and job.step % every == 0
