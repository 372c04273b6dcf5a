"""Rolling a policy out in a simulator, as the command line sees it.

    handloom eval rollout --checkpoint RUN                       on the built-in tabletop
    handloom eval rollout --checkpoint RUN --calvin task_ABCD_D  in CALVIN's simulator
    handloom eval rollout --actor oracle                         what is possible, or `random`

This file imports no torch, so that `--help` answers at once; `rollout.py` does the work.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from handloom.errors import UserError
from handloom.train.trainer.options import LoadOptions


@dataclass(frozen=True, kw_only=True)
class RolloutEval(LoadOptions):
    """Let a policy try chains of five tasks, by CALVIN's protocol: how many in a row are done."""

    checkpoint: Path | None = None
    """The --out of `handloom train finetune`, or its `export` folder."""
    actor: Literal["policy", "oracle", "random", "blind", "deaf"] = "policy"
    """Actor: the checkpoint; or on the tabletop a script that knows the way, chance, the script
    without eyes, which goes where things are on average, or without ears, which does any of
    --tasks."""
    calvin: Path | None = None
    """A CALVIN download such as task_ABCD_D: its simulator is driven, and its 1,000 chains. Without
    it the built-in tabletop is."""
    chains: int = 100
    """Chains to try; with --calvin the first so many of its 1,000."""
    single: bool = False
    """On the tabletop, chains of one task: every task is tried as often."""
    tasks: tuple[str, ...] = ()
    """On the tabletop, only these; by default all. Without --single they must be of five kinds."""
    words: Literal["new", "trained"] = "new"
    """On the tabletop: `new` phrases, as CALVIN validates, or those of the demonstrations, which is
    all that a text encoder without language can know."""
    steps_per_task: int = 360
    """Steps, 30 a second, after which a task has failed."""
    execute_n: int | None = None
    """Actions to execute of each chunk; by default as `Policy` does."""
    ensemble: float | None = None
    """Decay of the weights with which overlapping chunks are averaged; by default they are not."""
    smoothing: float = 0.1
    """Weight of the jerk when a chunk is smoothed; 0 leaves it as it is."""
    sample: bool = False
    """Draw the latent; else it is zero."""
    at_once: int = 1
    """On the tabletop with --single, attempts of a policy that are made side by side: many are
    faster. Nothing is filmed then."""
    videos: int = 4
    """Chains to film."""
    out: Path = Path("runs/rollout")
    """Folder for rollout.json and the films."""
    seed: int = 0
    """Seed of the tabletop's chains."""

    def __post_init__(self) -> None:
        if (self.actor == "policy") != (self.checkpoint is not None):
            raise UserError(
                "give --checkpoint, to roll a policy out, or one of --actor oracle, random, blind "
                "and deaf, which need none."
            )
        if self.calvin is not None and (self.actor != "policy" or self.single or self.tasks):
            raise UserError(
                "--actor, --single and --tasks are for the tabletop: leave them out with --calvin."
            )
        if self.at_once > 1 and (self.actor != "policy" or not self.single or self.videos):
            raise UserError(
                f"--at-once {self.at_once} is for a --checkpoint with --single and --videos 0: "
                "give these, or leave it out."
            )
        for name in ("chains", "steps_per_task", "at_once"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {getattr(self, name)} cannot be: give 1 or more.")
