"""Options of stage-2 fine-tuning: a GPT of stage 1 learns to act from robot episodes.

    handloom train finetune --shards DIR … --stage1 RUN             one process
    torchrun --nproc-per-node 8 -m handloom train finetune …        one process for each GPU
    handloom train finetune --workers 8 …                           the same by Ray Train

This file imports no torch, so that `--help` answers at once.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from handloom.errors import UserError
from handloom.train.trainer.options import Added, Free, GPTOptions

Mode = Literal["full", "frozen", "frozen+cached"]
HeadName = Literal["cvae", "flow"]
Control = Literal["", "random", "blind"]


@dataclass(frozen=True)
class HeadOptions:
    """Sizes of the readout, a transformer that attends to the GPT's features, and of the cVAE."""

    width: int = 128
    """Width of the readout's tokens."""
    layers: int = 4
    """Blocks of the readout."""
    latent: int = 32
    """Dimensions of the cVAE's latent (GR-MG, arXiv 2408.14368); 0 makes a deterministic head."""
    vae_width: int = 128
    """Width of the cVAE's transformers (GR-MG)."""
    vae_blocks: int = 4
    """Blocks of the cVAE's encoder, and of its decoder (GR-MG)."""
    pool: int = 2
    """Side of the squares of codes whose features are averaged before the readout attends to
    them."""


@dataclass(frozen=True)
class FlowOptions:
    """Sizes of the flow-matching head (`--action-head flow`)."""

    width: int = 128
    """Width of its transformer."""
    blocks: int = 4
    """Blocks of its transformer."""
    euler_steps: int = 10
    """Euler steps from noise to a chunk, as pi0 (arXiv 2410.24164) takes."""


@dataclass(frozen=True)
class LossOptions:
    """Weights of the parts of the loss."""

    video: float = 0.1
    """Weight of the cross entropy of the next pictures, nats a code (assumption; GR1-Training,
    which reproduces GR-1, has 1 on squared pixel errors beside 100 for the arm)."""
    arm: float = 1.0
    """Weight of the arm's loss: smooth L1 of normalised actions (cvae), squared error of the
    velocity (flow)."""
    gripper: float = 0.1
    """Weight of the gripper's cross entropy. GR1-Training has a hundredth of the arm's; a tenth
    learns a gripper that closes in a few steps of an episode (assumption)."""
    kl: float = 0.01
    """Weight of the latent's KL divergence. GR-MG has 1 on losses that are sums; here they are
    means over a chunk of 10 x 7 numbers (assumption: about 1 / 70)."""
    kl_warmup: int = 200
    """Steps over which `kl` rises from 0: a decoder that ignores the latent early never uses it."""
    free_bits: float = 0.05
    """Nats that each latent dimension may use unpaid, so that it does not collapse (1606.04934)."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(GPTOptions):
    """Fine-tune a GPT of stage 1 on robot episodes: pictures of every view, an instruction and
    states in; the next pictures and a chunk of actions out."""

    task: ClassVar[str] = "handloom.train.finetune.task:FinetuneTask"

    out: Free[Path] = Path("runs/finetune")
    """Folder for checkpoints, metrics.jsonl, export/ and summary.json; all processes must see
    it."""
    stage1: Free[Path | None] = None
    """The --out of `handloom train pretrain`, or its export folder; without it the GPT starts from
    random weights."""
    mode: Mode = "full"
    """`full` trains everything. `frozen` keeps the GPT as it is, so that it still predicts what it
    did; `frozen+cached` also stores its features once, and then trains the head alone."""
    control: Added[Control] = ""
    """Train a control run, which shows what stage 1 or the pictures are worth: `random` allows
    --mode frozen without --stage1, on a GPT of random weights; `blind` sets the GPT's features to
    zero, in training and in the policy."""
    size: str = "tiny"
    """Size of the GPT where no --stage1 is given: tiny, s, b, l or xl."""
    views: tuple[str, ...] = ()
    """Names of the camera views to use, in order; by default all that the shards have."""
    history: int = 2
    """Frames given to the model, the current one included."""
    stride: int = 5
    """Steps between frames, and from the current one to the one that is predicted: half a second at
    10 Hz (assumption: GR-2 publishes none)."""
    chunk: int = 10
    """Actions predicted at a time; k = 10 beat k = 1 (GR-MG)."""
    episodes_per_task: int | None = None
    """Train on so many episodes of each task only, the same ones each time: 50 and 400 are GR-2's
    settings for little data."""
    subset_seed: int = 0
    """Seed of the choice of these episodes."""
    action_head: HeadName = "cvae"
    """Action head: `cvae`, GR-2's conditional VAE, or `flow`, flow matching as in pi0."""
    head: HeadOptions = field(default_factory=HeadOptions)
    flow: FlowOptions = field(default_factory=FlowOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 16
    """Windows a step, over all processes."""
    lr: float = 1e-3
    """Peak learning rate (assumption: GR-2 publishes none)."""
    trunk_lr: float = 1.0
    """Learning rate of the GPT in mode full, as a share of `lr`. With 0.3 a GPT of stage 1 lagged
    behind one from random weights after 150 steps on the tabletop (0.82 against 0.62 nats of the
    static view)."""
    warmup: int = 50
    """Steps over which the learning rate rises; then it falls along a cosine to a twentieth."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices; norms and biases are not decayed."""
    ema: Added[float | None] = None
    """Validate and export a running average of the weights (EMA) with this decay, such as 0.999,
    in place of the last ones."""
    text_encoder: Free[str] = "seeded"
    """Frozen text encoder, as for pretrain; with --stage1 the place where that one's lies now."""
    text_length: int = 24
    """Tokens of an instruction; with --stage1 as there."""
    features: Free[Path | None] = None
    """Folder in which frozen+cached stores features; by default OUT/features."""
    features_gb: Free[float | None] = None
    """Largest size of the stored features of training windows, in gigabytes; those of the other
    windows are computed when they are needed. By default all are stored."""
    val_windows: Free[int] = 256
    """Held-out windows to validate on, at most, spread evenly."""

    def identity(self) -> dict[str, Any]:
        """The options that a run keeps for its whole life, as a flat dict of plain JSON.

        What belongs to another action head than the one in use is left out.
        """
        kept = super().identity()
        nested = [name for name, value in kept.items() if isinstance(value, dict)]
        groups = {name: kept.pop(name) for name in nested}
        for name in ("head", "loss", self.action_head):
            kept |= {f"{name}.{option}": value for option, value in groups.get(name, {}).items()}
        if self.action_head == "cvae":
            del kept["action_head"]  # runs from before there was a choice go on
        return kept

    def check(self) -> None:
        """Check the decay of the average and the room for features too."""
        super().check()
        if self.features_gb is not None and not self.features_gb >= 0:
            raise UserError(
                f"--features-gb {self.features_gb} is no size, expected gigabytes, 0 or more."
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise UserError(
                f"--ema {self.ema} is the decay of a running average, expected a number between 0 "
                "and 1, such as 0.999: pass that, or leave it out."
            )

    def other_head(self) -> dict[str, Any] | None:
        """Name and options of the action head, as plain JSON; None for the cVAE."""
        if self.action_head == "cvae":
            return None
        return {"name": self.action_head, **asdict(getattr(self, self.action_head))}
