"""The training loop, of every kind of training.

OUT/checkpoints/        see checkpoints.py
OUT/metrics.jsonl       a line per step and per validation, see log.py; OUT/tensorboard/ too
OUT/…                   results of the task; the file it names `finished_by` is written last
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from handloom.errors import RunError, UserError
from handloom.train.trainer.distributed import World, check_shared, join
from handloom.train.trainer.options import TrainOptions
from handloom.train.trainer.run import Run


def run(config: TrainOptions) -> None:
    """Train from the newest checkpoint, or from the start, to the results."""
    sharded = getattr(config, "parallel", "ddp") == "fsdp"
    with join(config.device, sharded) as world:
        check_shared(config.out, world)
        job = Run(config, world)
        if job.is_finished:
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
        job.gather()
    if world.is_first:  # the others have nothing left to wait for
        job.finish()


def train(job: Run, stop_asked: Callable[[], bool]) -> None:
    """The loop. A step never waits for the device: the log reads many losses at a time."""
    config, task, log = job.config, job.task, job.log
    task.begin()
    batches = task.batches(job.position)
    log.restart_clock()
    while job.step < config.steps:
        batch = log.timed(lambda: next(batches))
        with memory_error_as_a_sentence(task.too_large(), job.world):
            values, norm = task.take_step(batch, job.step)
        job.step, job.position = job.step + 1, batch.position
        log.add(job.step, values, norm, batch)

        last, stop = job.step == config.steps, job.world.any(stop_asked())
        validating = last or _due(job, config.val_every)
        saving = last or stop or _due(job, config.save_every) or job.step == job.kept_step
        drawing = _due(job, getattr(config, "sample_every", 0)) and not last
        if validating or saving or drawing or _due(job, config.log_every):
            log.flush()
            job.checkpoints.check()
            if validating:
                job.validate()
            if drawing:
                job.draw()
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


def _due(job: Run, every: int) -> bool:
    return every > 0 and job.step % every == 0


@contextmanager
def memory_error_as_a_sentence(too_large: tuple[str, str], world: World) -> Iterator[None]:
    """Say what to lower when a batch does not fit into memory.

    Args:
        too_large: what the batch was, and which option to lower.
        world: of the run.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; a CPU's has no type of its own
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        what, lower = too_large
        raise UserError(
            f"{what} at a time do not fit into the memory of {world.device} in each of "
            f"{world.size} process{'es' * (world.size > 1)}: pass {lower} or --bf16."
        ) from error


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
