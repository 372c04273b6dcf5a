"""The training loop of stage 1.

    OUT/checkpoints/        see checkpoint_sharded.py
    OUT/metrics.jsonl       a line per step and per validation, see log.py; OUT/tensorboard/ too
    OUT/predictions.png     predicted frames below true ones; OUT/samples/ has earlier ones
    OUT/export/             the model for `handloom generate`, see export.py
    OUT/summary.json        the closing numbers; written last, so a run that has it is finished

Shapes: B clips in a batch of this process, N codes a clip in the order of the model.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from handloom.errors import RunError, UserError
from handloom.train.pretrain import validate
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.pretrain.data import Inputs
from handloom.train.pretrain.task import Job as Job
from handloom.train.trainer.distributed import World, gradients_meet, join
from handloom.train.trainer.optimizer import set_rate, update


def run(config: PretrainConfig) -> None:
    """Train from the newest checkpoint, or from the start, to the summary."""
    with join(config.device, sharded=config.parallel == "fsdp") as world:
        job = Job(config, world)
        if job.is_finished():
            if world.is_first:
                where = f"{config.out} holds this run, finished"
                print(f"{where}: nothing to do (--no-resume starts again)")
            return
        job.describe()
        try:
            with sigterm() as stop_asked:
                train(job, stop_asked)
        finally:
            job.checkpoints.settle()  # its thread still needs the other processes
        job.gather_model()
    if world.is_first:  # the others have nothing left to wait for
        job.export()
        validate.finish(job)
        job.log.close()


def train(job: Job, stop_asked: Callable[[], bool]) -> None:
    """The loop. A step never waits for the device: the log reads the losses in bunches."""
    config, log, batches = job.config, job.log, job.batches()
    log.restart_clock()
    while job.step < config.steps:
        began = time.perf_counter()
        inputs = next(batches)
        log.waited_s += time.perf_counter() - began
        what = f"clip{'s' * (job.micro_batch > 1)} of {job.shape.codes:,} codes"
        with memory_error_as_a_sentence(job.micro_batch, what, job.world):
            loss_B, norm = take_step(job, inputs)
        job.step, job.position = job.step + 1, inputs.position
        log.add(job.step, loss_B, norm, inputs)

        last, stop = job.step == config.steps, job.world.any(stop_asked())
        validating = last or _due(job, config.val_every)
        saving = last or stop or _due(job, config.save_every)
        sampling = _due(job, config.sample_every) and not last
        if validating or saving or sampling or _due(job, config.log_every):
            log.flush()
            job.checkpoints.check()
            if validating or sampling:
                look(job, validating, sampling)
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


def take_step(job: Job, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Accumulate the gradient of a batch and update the model.

    Returns:
        The loss of each clip [B] and the norm of the gradient, on the device. If the norm is not
        finite, in any process, nothing was updated in any.
    """
    micro, losses = job.micro_batch, []
    for start in range(0, len(inputs.codes_BN), micro):
        part = slice(start, start + micro)
        last = part.stop >= len(inputs.codes_BN)
        with gradients_meet(job.objective, meet=last):
            with job.autocast():
                loss_BN = job.objective(inputs.codes_BN[part], inputs.text_BLE[part])
            loss_B = job.per_clip(loss_BN)
            loss, share = loss_B.mean(), micro / len(inputs.codes_BN)
            # A loss that is not finite can have a finite gradient; NaN here reaches the norm, and
            # by it all processes, with no message of its own.
            poison = torch.where(loss.isfinite(), share, torch.nan)
            loss.backward(poison)  # type: ignore[no-untyped-call]
        losses.append(loss_B.detach())
    set_rate(job.optimizer, job.step, job.config)
    norm = update(job.trained, job.optimizer, job.config.clip)
    return torch.cat(losses), norm


def look(job: Job, validating: bool, sampling: bool) -> None:
    """Validate or draw, in rank 0, while the others wait."""
    job.gather_model()
    if job.world.is_first:
        if validating:
            job.log.validation(job.step, validate.evaluate(job))
        if sampling:
            validate.draw_predictions(job)
            drawn = job.config.out / "predictions.png"
            if drawn.is_file():
                kept = job.config.out / "samples" / f"{job.step:08d}.png"
                kept.parent.mkdir(exist_ok=True)
                shutil.copyfile(drawn, kept)
                job.log.picture(job.step, kept)
    job.model = job.trained  # a whole copy of a model in parts need not stay
    job.world.barrier()


@contextmanager
def memory_error_as_a_sentence(micro_batch: int, what: str, world: World) -> Iterator[None]:
    """Tell what to lower when so many things at a time do not fit into memory."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; a CPU's has no type of its own
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        half = max(1, micro_batch // 2)
        while micro_batch % half:
            half -= 1
        smaller = f"--micro-batch {half} (the result is the same)"
        lower = smaller if micro_batch > 1 else "a smaller --size"
        raise UserError(
            f"{micro_batch} {what} at a time do not fit into the memory of {world.device} in each "
            f"of {world.size} process{'es' * (world.size > 1)}: pass {lower}, "
            "--activation-checkpointing or --bf16."
        ) from error


def _due(job: Job, every: int) -> bool:
    return every > 0 and job.step % every == 0


@contextmanager
def sigterm() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM only raises a flag; yields the function that reads the flag."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
