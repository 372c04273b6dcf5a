"""Stage-2 fine-tuning as the command line sees it: its options, and the call that starts it.

    handloom train finetune --shards DIR … --stage1 RUN             one process
    torchrun --nproc-per-node 8 -m handloom train finetune …        one process for each GPU

The loop is in `robot/loop.py`. This file imports no torch, so that `--help` answers at once.
"""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

# They decide where, how fast and how watched a run learns, not what: a resumed run may change them.
_FREE = {"shards", "out", "stage1", "text_encoder", "resume", "device", "threads", "micro_batch"}
_FREE |= {"activation_checkpointing", "keep", "log_every", "val_every", "val_windows", "save_every"}
_FREE |= {"tensorboard", "skip_nonfinite", "features", "deterministic"}

Mode = Literal["full", "frozen", "frozen+cached"]


@dataclass(frozen=True)
class HeadOptions:
    """Sizes of what stage 2 adds to the GPT: a transformer that looks at it, and a VAE."""

    width: int = 128
    """Of the tokens that look at the GPT's features."""
    layers: int = 4
    """Of the transformer that looks."""
    latent: int = 32
    """Dimensions of the VAE's latent (GR-MG, arXiv 2408.14368); 0 makes a deterministic head."""
    vae_width: int = 128
    """Of the VAE's transformers (GR-MG)."""
    vae_blocks: int = 4
    """Blocks of the VAE's encoder, and of its decoder (GR-MG)."""
    pool: int = 2
    """Features of so many codes by so many are averaged before the head looks at them."""
    state_to_images: bool = False
    """Let states reach the pictures. What stage 1 predicts is then no longer preserved."""


@dataclass(frozen=True)
class LossOptions:
    """Weights of the parts of the loss."""

    video: float = 0.1
    """Of the cross entropy of the next pictures, nats a code (assumption; GR1-Training, which
    reproduces GR-1, has 1 on squared pixel errors beside 100 for the arm)."""
    arm: float = 1.0
    """Of smooth L1 on normalised arm actions."""
    gripper: float = 0.1
    """Of the gripper's cross entropy. GR1-Training has a hundredth of the arm's; a tenth learns a
    gripper that closes in a few steps of an episode (assumption)."""
    kl: float = 0.01
    """Of the KL divergence of the latent. GR-MG has 1 on losses that are sums; here they are means
    over a chunk of 10 x 7 numbers (assumption: about 1 / 70)."""
    kl_warmup: int = 200
    """Steps over which `kl` rises from 0: a decoder that ignores the latent early never uses it."""
    free_bits: float = 0.05
    """Nats that each latent dimension may use unpaid, so that it does not collapse (1606.04934)."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune a GPT of stage 1 on robot episodes: pictures of every view, an instruction and
    states in; the next pictures and a chunk of actions out."""

    shards: tuple[str, ...]
    """Folders or s3:// URLs of shards of robot episodes. Several are mixed by their number of
    windows, or as told by FOLDER=WEIGHT."""
    out: Path = Path("runs/finetune")
    """Where checkpoints, metrics.jsonl, export/ and summary.json go."""
    stage1: Path | None = None
    """The --out of `handloom train pretrain`, or its export folder; without it the GPT starts from
    random weights."""
    mode: Mode = "full"
    """`full` trains everything. `frozen` keeps the GPT as it is, so that it still predicts what it
    did; `frozen+cached` also stores its features once, and then trains the head alone."""
    size: str = "tiny"
    """Size of the GPT where no --stage1 is given: tiny, s, b, l or xl."""
    views: tuple[str, ...] = ()
    """Names of the views to use, in order; by default all that the shards have."""
    history: int = 2
    """Frames that are seen, the current one included."""
    stride: int = 5
    """Steps between frames, and from the current one to the one that is predicted: half a second at
    10 Hz (assumption: GR-2 publishes none)."""
    chunk: int = 10
    """Actions that are predicted at a time; k = 10 beat k = 1 (GR-MG)."""
    episodes_per_task: int | None = None
    """Train on so many episodes of each task only, the same ones each time: 50 and 400 are GR-2's
    settings for little data."""
    subset_seed: int = 0
    """Which ones."""
    head: HeadOptions = field(default_factory=HeadOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 16
    """Windows a step, over all processes."""
    micro_batch: int | None = None
    """Windows that one process takes at a time; by default all that it gets of a batch."""
    lr: float = 1e-3
    """Peak learning rate (assumption: GR-2 publishes none)."""
    trunk_lr: float = 1.0
    """Of the GPT in mode full, as a share of `lr`. With 0.3 a GPT of stage 1 lagged behind one from
    random weights after 150 steps on the tabletop (0.82 against 0.62 nats of the static view)."""
    warmup: int = 50
    """Steps over which the learning rate rises; then it falls along a cosine to a twentieth."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices; norms and biases are not decayed."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    skip_nonfinite: int = 10
    """Stop after so many steps whose loss or gradient was not finite; each of them is skipped."""
    seed: int = 0
    """Of the weights, of the order of the windows, and of what is drawn from the posterior."""
    text_encoder: str = "seeded"
    """Frozen text encoder, as for pretrain; with --stage1 the place where that one's lies now."""
    text_length: int = 24
    """Tokens of an instruction; with --stage1 as there."""
    features: Path | None = None
    """Where frozen+cached stores features; by default OUT/features."""
    bf16: bool = False
    """Multiply matrices in bfloat16."""
    activation_checkpointing: bool = False
    """Compute the GPT's activations again in the backward pass: less memory, a third more work."""
    deterministic: bool = False
    """Only operations that give the same bits each time; on a CPU this is always so."""
    log_every: int = 50
    """Steps between lines of the log."""
    val_every: int = 250
    """Steps between validations."""
    val_windows: int = 256
    """Validate on at most so many held-out windows, spread evenly."""
    save_every: int = 250
    """Steps between checkpoints; SIGTERM saves too."""
    keep: int = 2
    """Checkpoints that are kept."""
    tensorboard: bool = True
    """Write the log for TensorBoard too, into OUT/tensorboard."""
    device: str = "cpu"
    """A torch device, such as `cpu` or `cuda`."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch."""
    resume: bool = True
    """Continue from the checkpoint in `out`; --no-resume throws it away and starts again."""

    def __post_init__(self) -> None:
        if isinstance(self.shards, str | Path):  # one folder, as Python callers have it
            object.__setattr__(self, "shards", (str(self.shards),))

    def identity(self) -> dict[str, Any]:
        """The options that a run keeps for its whole life."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}


def finetune(config: FinetuneConfig) -> None:
    """Fine-tune, resume, or say that the run in `config.out` is finished.

    Raises:
        UserError: shards, stage 1 or the checkpoint in `out` do not fit the configuration.
        RunError: the loss is no longer finite, memory or disk are too small, or SIGTERM stopped
            the run (after saving).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see pretrain.py
    from handloom.train.finetune import loop

    loop.run(config)
