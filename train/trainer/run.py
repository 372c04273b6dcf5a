"""A run in memory: its task, its step, its checkpoints and its log."""

import shutil
from functools import cached_property
from typing import Any

import torch

from handloom.train.trainer.checkpoints import Checkpoints
from handloom.train.trainer.distributed import World, reshard
from handloom.train.trainer.going_on import go_back, rate_of
from handloom.train.trainer.log import Log
from handloom.train.trainer.options import TrainOptions
from handloom.train.trainer.task import Scores, forget_results, task_class


class Run:
    """A run, in one of the processes that share it, as far as its newest checkpoint.

    Args:
        config: of the run.
        world: the processes; this one alone by default.

    Raises:
        UserError: data, options or the checkpoint do not fit each other.
        RunError: the checkpoint cannot be read.
    """

    def __init__(self, config: TrainOptions, world: World | None = None) -> None:
        self.config = config
        self.world = world or World(torch.device(config.device))
        self.task: Any = task_class(config)(config, self.world)
        self.step = self.position = self.skipped = 0
        self.scores: Scores | None = None
        """The last validation; in other ranks than 0 it is empty."""
        identity = self.task.identity()
        self.kept_step = rate_of(config).get("rate", {}).get("falls_from")
        """Step whose checkpoint is written and kept, for runs that go on; None without one."""
        self.checkpoints = Checkpoints(
            config.out, identity, config.keep, self.world, self.kept_step
        )
        self._resume()

    @cached_property
    def log(self) -> Log:
        """Opened when it is first written to: a finished run is left as it is."""
        return Log(self.config, self.world, self.task, self.step, self.skipped)

    @property
    def is_finished(self) -> bool:
        """True where `out` holds the results of this run."""
        done = self.config.out / self.task.finished_by
        return self.step == self.config.steps and done.is_file()

    def describe(self) -> None:
        """Print sizes of model and data, and the step that the run resumes from."""
        resumed = [f"resumed after step {self.step:,}"] if self.step else []
        if self.world.is_first:
            print("\n".join([*self.task.describe(), *resumed]), flush=True)

    def validate(self) -> None:
        """Score the task on held-out data, in all processes."""
        self.scores = scores = self.task.validate(self.step)
        reshard(self.task.trained)  # a checkpoint of it may follow
        if self.world.is_first:
            self.log.validation(self.step, scores, self.task.validation_line(scores))
            if self.task.draws_validation:
                self._draw()
        self.world.barrier()

    def draw(self) -> None:
        """Draw the task's picture, in rank 0 while the others wait."""
        self.task.gather()
        if self.world.is_first:
            self._draw()
        self.world.barrier()

    def _draw(self) -> None:
        if drawn := self.task.draw(self.step):
            self.log.picture(self.step, drawn)

    def save(self) -> None:
        """Start to write a checkpoint of all that the next step depends on."""
        facts = {"position": self.position, "skipped": self.log.skipped, **self.task.facts()}
        facts |= rate_of(self.config)
        self.checkpoints.save(self.step, self.task.tensors(), facts)

    def gather(self) -> None:
        """Bring all that the results need to rank 0; all processes must call this."""
        if self.scores is None:
            self.validate()  # the run was killed between its last step and its results
        self.task.gather()

    def finish(self) -> None:
        """Write the results, in rank 0."""
        self.task.finish(self.step, self.scores or {})
        self.log.close()

    def _resume(self) -> None:
        if not self.config.resume:
            self.checkpoints.delete()
            forget_results(self.config, type(self.task))
            shutil.rmtree(self.config.out / "tensorboard", ignore_errors=True)
        go_back(self.config, self.checkpoints, self.task.finished_by)
        facts = self.checkpoints.load(self.task.tensors())
        if facts is not None:
            self.step, self.position = facts["step"], facts["position"]
            self.skipped = facts["skipped"]
            self.task.restore(facts)
