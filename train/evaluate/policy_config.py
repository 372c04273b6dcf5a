"""Evaluation of a fine-tuned policy without a robot, as the command line sees it.

    handloom eval policy --checkpoint RUN --shards DIR …

This file imports no torch, so that `--help` answers at once; `policy.py` does the work.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from handloom.errors import UserError
from handloom.train.trainer.options import LoadOptions


@dataclass(frozen=True, kw_only=True)
class PolicyEval(LoadOptions):
    """Measure a policy on held-out robot episodes: its actions, its latent and the pictures it
    imagines, each for all windows, each dataset and each task."""

    checkpoint: Path
    """The --out of `handloom train finetune`, or its `export` folder."""
    shards: tuple[str, ...]
    """Folders or s3:// URLs of shards of robot episodes."""
    split: Literal["val", "train"] = "val"
    """The part of the shards to measure on; `train` shows what was learned by heart."""
    windows: int = 512
    """Windows to measure actions on, at most, spread evenly."""
    samples: int = 8
    """Draws from the prior for each window."""
    clips: int = 4
    """Episodes that are imagined, drawn and played through; 0 for none."""
    frames: int = 6
    """Frames to imagine of each, `stride` steps apart: code after code, which is slow."""
    out: Path = Path("runs/eval-policy")
    """Folder for scores.json, actions.svg, pictures.png and the videos."""
    execute_n: int | None = None
    """Actions to execute of each chunk; by default as `Policy` does."""
    ensemble: float | None = None
    """Decay of the weights with which overlapping chunks are averaged; by default they are not."""
    smoothing: float | None = None
    """Weight of the jerk when a chunk is smoothed, 0 or more; by default as for `Policy`."""
    batch_size: int = 32
    """Windows that are computed at a time."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        if isinstance(self.shards, str | Path):  # one folder, as Python callers have it
            object.__setattr__(self, "shards", (str(self.shards),))
        if not self.shards:
            raise UserError("--shards names no folder: give one of robot episodes at least.")
        least = {"windows": 1, "samples": 1, "clips": 0, "frames": 1, "batch_size": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {getattr(self, name)} cannot be: give {value} or more.")
