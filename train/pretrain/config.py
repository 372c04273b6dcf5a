"""Stage-1 pre-training as the command line sees it: its options, and the call that starts it.

    handloom train pretrain --shards DIR …                          one process
    torchrun --nproc-per-node 8 -m handloom train pretrain …        one process for each GPU
    handloom train pretrain --workers 8 …                           the same by Ray Train
    handloom submit pretrain --workers 8 …                          that, on a Ray cluster

The loop is in `loop.py`. This file imports no torch, so that `--help` answers at once.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

# They decide where, how fast and how watched a run learns, not what: a resumed run may change them.
_FREE = {"shards", "out", "text_encoder", "resume", "device", "threads", "workers", "parallel"}
_FREE |= {"micro_batch", "compile", "activation_checkpointing", "deterministic", "keep"}
_FREE |= {"log_every", "val_every", "val_clips", "save_every", "sample_every", "tensorboard"}
_FREE |= {"skip_nonfinite"}


@dataclass(frozen=True)
class PretrainConfig:
    """Train a GPT on token shards: a caption and a frame in, the next frames out."""

    shards: tuple[str, ...]
    """Folders or s3:// URLs of token shards: manifest.json, train/ and val/. Several are mixed,
    each with its number of clips as weight, or as told by FOLDER=WEIGHT."""
    out: Path = Path("runs/pretrain")
    """Where checkpoints, metrics.jsonl, predictions.png, export/ and summary.json go. All processes
    must see it."""
    size: str = "tiny"
    """Model size: tiny, s, b, l or xl with 2, 30, 92, 312 or 721 million parameters; tiny is for
    CPUs."""
    steps: int = 200
    """Optimiser steps."""
    batch_size: int = 2
    """Clips a step, over all processes. Small, because on 2 cores more steps learn faster than
    larger ones."""
    micro_batch: int | None = None
    """Clips that one process takes through the model at a time; gradients of several add up to a
    step. By default all that it gets of a batch."""
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
    skip_nonfinite: int = 10
    """Stop after so many steps whose loss or gradient was not finite; each of them is skipped."""
    seed: int = 0
    """Of the weights and of the order of the clips."""
    text_encoder: str = "seeded"
    """Frozen text encoder: `seeded` (small, random, no download), a CLIP folder or a hub id."""
    text_length: int = 24
    """Tokens of a caption, start and end included; longer captions are cut."""
    bf16: bool = False
    """Multiply matrices in bfloat16: 1.4 times faster, but slower on CPUs that lack it."""
    compile: bool = False
    """Compile the model: faster steps after a minute or so; wants a C++ compiler."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more work."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Several processes hold whole copies of the model, or each its part (FSDP2) where a model does
    not fit beside its optimiser."""
    workers: int = 0
    """Start so many processes with Ray Train, each with a GPU if --device is cuda; 0 trains in this
    process, which torchrun may have started."""
    deterministic: bool = False
    """Only operations that give the same bits each time; on a CPU this is always so."""
    log_every: int = 25
    """Steps between lines of the log."""
    val_every: int = 100
    """Steps between validations."""
    val_clips: int = 256
    """Validate on at most so many clips, taken from all datasets in turn."""
    save_every: int = 100
    """Steps between checkpoints; SIGTERM saves too."""
    sample_every: int = 0
    """Steps between pictures of predictions; 0 draws them at the end only."""
    keep: int = 2
    """Checkpoints that are kept: the newest, and others in case a disk damages it."""
    tensorboard: bool = True
    """Write the log for TensorBoard too, into OUT/tensorboard."""
    device: str = "cpu"
    """A torch device, such as `cpu` or `cuda`."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch. Another number may change the last digits."""
    resume: bool = True
    """Continue from the checkpoint in `out`; --no-resume throws it away and starts again."""

    def __post_init__(self) -> None:
        if isinstance(self.shards, str | Path):  # one folder, as Python callers have it
            object.__setattr__(self, "shards", (str(self.shards),))

    def identity(self) -> dict[str, Any]:
        """The options that a run keeps for its whole life."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}


def train(config: PretrainConfig) -> None:
    """Train, resume, or say that the run in `config.out` is finished.

    Raises:
        UserError: shards, text encoder or the checkpoint in `out` do not fit the configuration.
        RunError: the loss is no longer finite, memory or disk are too small, or SIGTERM stopped
            the run (after saving).
    """
    # Threads that spin while they wait make a step five times slower where cores are shared; OpenMP
    # reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if config.workers:
        from handloom.train.trainer import ray_train as launch

        launch.with_ray(config)
    else:
        from handloom.train.trainer import loop

        loop.run(config)


@dataclass(frozen=True)
class ExportConfig:
    """Write OUT/export, which `handloom generate` loads, from a run's newest checkpoint."""

    out: Path
    """The folder of the run; it may still be training."""


def export(config: ExportConfig) -> None:
    """Export the newest checkpoint of a run; a finished run did so itself."""
    from handloom.train.model import export

    export.from_checkpoint(config.out)
