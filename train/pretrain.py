"""Stage-1 pre-training as the command line sees it: its options, and the call that starts it.

The loop is in `loop.py`. This file imports no torch, so that `--help` answers at once.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

# They decide where and how a run is watched, not what it learns: a resumed run may change them.
_FREE = {"shards", "out", "text_encoder", "log_every", "val_every", "val_clips", "save_every"}
_FREE |= {"device", "threads", "resume"}


@dataclass(frozen=True)
class PretrainConfig:
    """Train a GPT on token shards: a caption and a frame in, the next frames out."""

    shards: Path
    """Folder of token shards: manifest.json, train/ and val/."""
    out: Path = Path("runs/pretrain")
    """Where checkpoints, metrics.jsonl, predictions.png and summary.json go."""
    size: Literal["tiny", "s", "b", "l", "xl"] = "tiny"
    """Model size: 2, 30, 92, 312 or 721 million parameters; tiny is for CPUs."""
    steps: int = 200
    """Optimiser steps."""
    batch_size: int = 2
    """Clips a step. Small, because on 2 cores more steps learn faster than larger ones."""
    lr: float = 1.5e-3
    """Peak learning rate; larger sizes want less, 6e-4 for b (assumption: GR-2 publishes none)."""
    warmup: int = 20
    """Steps over which the learning rate rises; then it falls along a cosine to a twentieth."""
    weight_decay: float = 0.1
    """AdamW's decay of matrices; norms and biases are not decayed."""
    first_frame_weight: float = 0.02
    """Weight of frame 0's loss beside that of the later frames. At 1 a small corpus is memorised:
    on the sample the accuracy on held-out later frames is 79.1 % then, and 80.6 % at 0.02."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    """Of the weights and of the order of the clips."""
    text_encoder: str = "seeded"
    """Frozen text encoder: `seeded` (small, random, no download), a CLIP folder or a hub id."""
    text_length: int = 24
    """Tokens of a caption, start and end included; longer captions are cut."""
    bf16: bool = False
    """Multiply matrices in bfloat16: 1.4 times faster, but slower on CPUs that lack it."""
    log_every: int = 25
    """Steps between lines of the log."""
    val_every: int = 100
    """Steps between validations."""
    val_clips: int = 256
    """Validate on at most so many clips."""
    save_every: int = 100
    """Steps between checkpoints; SIGTERM saves too."""
    device: str = "cpu"
    """A torch device, such as `cpu` or `cuda`."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch. Another number may change the last digits."""
    resume: bool = True
    """Continue from the checkpoint in `out`; --no-resume throws it away and starts again."""

    def identity(self) -> dict[str, Any]:
        """The options that a run keeps for its whole life."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}


def train(config: PretrainConfig) -> None:
    """Train, resume, or say that the run in `config.out` is finished.

    Raises:
        UserError: shards, text encoder or the checkpoint in `out` do not fit the configuration.
        RunError: the loss is no longer finite, or SIGTERM stopped the run (after saving).
    """
    # Threads that spin while they wait make a step five times slower where cores are shared; OpenMP
    # reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from handloom.train import loop

    loop.run(config)
