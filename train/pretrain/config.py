"""Options of stage-1 pre-training: a caption and a frame in, the next frames out.

    handloom train pretrain --shards DIR …                          one process
    torchrun --nproc-per-node 8 -m handloom train pretrain …        one process for each GPU
    handloom train pretrain --workers 8 …                           the same by Ray Train
    handloom submit train pretrain --workers 8 …                    that, on a Ray cluster

This file imports no torch, so that `--help` answers at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from handloom.train.trainer.options import Added, Free, GPTOptions


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(GPTOptions):
    """Train a GPT on token shards: a caption and a frame in, the next frames out."""

    task: ClassVar[str] = "handloom.train.pretrain.task:PretrainTask"

    out: Free[Path] = Path("runs/pretrain")
    """Folder for checkpoints, metrics.jsonl, predictions.png, export/ and summary.json; all
    processes must see it."""
    frames: Added[int | None] = None
    """Frames of a window; by default as many as the clips have that hold a few frames spread over
    their length, and 5 where there are only robot episodes."""
    spacing_s: Added[float | None] = None
    """Seconds from one frame of a window to the next, to the nearest picture of the source. By
    default 0.5 for robot episodes; clips that hold a few frames spread over their length are read
    as they are."""
    views: Added[tuple[str, ...]] = ()
    """Names of the camera views to read, by default all; each is a sample of its own. Those of
    clips of people are called `main`."""
    joint_views: Added[bool] = False
    """Read all of --views at once: a sample has a picture of each at every moment."""
    spacing_input: Added[bool] = False
    """Tell the model how many seconds lie between the frames of a window, as one more vector before
    those of the caption."""
    init: Free[Path | None] = None
    """A finished run or its export folder whose weights this run starts from, with steps, learning
    rate and optimiser of its own: for more steps, other shards or other weights of them."""
    steps: int = 200
    """Optimiser steps."""
    batch_size: int = 2
    """Clips a step, over all processes. Small, because on 2 cores more steps learn faster than
    larger ones."""
    lr: float = 1.5e-3
    """Peak learning rate; larger sizes want less, 6e-4 for b (assumption: GR-2 publishes none)."""
    first_frame_weight: float = 0.02
    """Weight of frame 0's loss beside that of the later frames. At 1 a small corpus is memorised:
    on the sample the accuracy on held-out later frames is 79.1 % then, and 80.6 % at 0.02."""
    log_every: Free[int] = 25
    """Steps between lines of the log."""
    val_every: Free[int] = 100
    """Steps between validations."""
    val_clips: Free[int] = 256
    """Held-out clips to validate on, at most, taken from all datasets in turn."""
    save_every: Free[int] = 100
    """Steps between checkpoints; SIGTERM saves too."""
    sample_every: Free[int] = 0
    """Steps between pictures of predictions; 0 draws them at the end only."""


@dataclass(frozen=True)
class ExportConfig:
    """Write OUT/export, which `handloom generate` loads, from a run's newest checkpoint."""

    out: Path
    """The folder of the run; it may still be training."""


def export(config: ExportConfig) -> None:
    """Export the newest checkpoint of a run; a finished run did so itself."""
    from handloom.train.model import export

    export.from_checkpoint(config.out)
