"""Runs that go on to other numbers of steps, from before their learning rate began to fall.

With `--schedule wsd` the first part of a run does not depend on how long it is to be. A checkpoint
is written where the rate begins to fall and kept; a run with other --steps starts from it again.
"""

import shutil
from pathlib import Path
from typing import Any

from handloom.errors import UserError
from handloom.files import write_text
from handloom.train.trainer.checkpoints import (
    Checkpoints,
    checkpoints_in,
    read_run,
    refuse_another_run,
)
from handloom.train.trainer.optimizer import falls_from
from handloom.train.trainer.options import GPTOptions, TrainOptions


def rate_of(config: TrainOptions) -> dict[str, Any]:
    """The end of the schedule as a checkpoint records it; {} where it is part of the identity."""
    if not isinstance(config, GPTOptions) or config.schedule != "wsd":
        return {}
    return {"rate": {"steps": config.steps, "falls_from": falls_from(config)}}


def go_back(config: TrainOptions, checkpoints: Checkpoints, finished_by: str) -> None:
    """Make the newest checkpoint that fits the schedule the latest one; all processes call this.

    Args:
        config: of the run.
        checkpoints: of the run.
        finished_by: file in `out` that says that the run is finished.

    Raises:
        UserError: the checkpoint is of another run, or the rate had fallen in all that are there.
    """
    own = rate_of(config).get("rate")
    run = read_run(checkpoints.folder) if own else None
    if own is None or run is None:
        return
    path, facts = run
    refuse_another_run(path, facts["identity"], checkpoints.identity)
    stored = facts["rate"]
    last = min(stored["falls_from"], own["falls_from"])
    checkpoints.world.barrier()  # nobody changes what another one has yet to read
    if stored == own or facts["step"] <= last:
        return
    _go_back_to(last, path, checkpoints)
    if checkpoints.world.is_first:
        (config.out / finished_by).unlink(missing_ok=True)
    checkpoints.world.barrier()


def _go_back_to(last: int, latest: Path, checkpoints: Checkpoints) -> None:
    """Point at the newest checkpoint up to step `last`, and delete those after it."""
    every = checkpoints_in(checkpoints.folder)
    early = [path for path in every if int(path.name) <= last]
    if not early:
        raise UserError(
            f"{latest} was written after the learning rate had begun to fall, and none from before "
            f"step {last} is there: pass the --steps and --decay-steps of that run, or start "
            f"another one from its weights with --init {latest.parent.parent} and another --out."
        )
    if checkpoints.world.is_first:
        write_text(checkpoints.folder / "latest", early[-1].name)
        for path in every[len(early) :]:
            shutil.rmtree(path)
        print(
            f"goes on from step {int(early[-1].name):,}, before the learning rate fell: what came "
            f"after it, up to step {int(latest.name):,}, is thrown away"
        )
