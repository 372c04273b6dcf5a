"""Options of training a VQGAN: pictures in, codes out, and back.

    handloom train vqgan --frames runs/ego4d runs/rt1=0.5 --out models/mine

The result is a `diffusers.VQModel` folder that `--tokens.model` accepts, after VQGAN (Esser et al.,
"Taming Transformers for High-Resolution Image Synthesis", arXiv 2012.09841). What differs: encoder
and codebook do not start from noise, but from principal components and k-means (`linear_start.py`),
where they reconstruct from the first step and use every code.

This file imports no torch, so that `--help` answers at once.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import tyro

from handloom.errors import UserError
from handloom.train.trainer.options import FREE, Free, TrainOptions, absolute_place


@dataclass(frozen=True, kw_only=True)
class VQGANConfig(TrainOptions):
    """Train a VQGAN on frames of several datasets: pictures in, codes out, and back."""

    task: ClassVar[str] = "handloom.train.vqgan.task:VQGANTask"

    frames: Free[tuple[str, ...]]
    """Sources of frames, each PATH or PATH=WEIGHT: the output folder of `handloom curate`, or a
    folder of videos and images. A weight of 2 is drawn from twice as often as one of 1."""
    out: Free[Path]
    """Folder for checkpoints, metrics.jsonl, pictures, and in the end the model with its card."""
    held_out: Free[tuple[str, ...]] = ()
    """Further such folders, for validation alone; by default what a run calls `val`, and of a
    folder a tenth of its files."""
    name: Free[str] = ""
    """Name recorded in shard manifests; default: the name of `out`."""
    steps: int = 5000
    """Optimiser steps."""
    batch_size: Annotated[int, tyro.conf.arg(aliases=["--batch"])] = 8
    """Crops a step, over all processes."""
    lr: float = 4e-3
    """Peak learning rate of AdamW; warms up over 50 steps, then falls to a fiftieth (cosine)."""
    begin_with: Free[Path | None] = None
    """Folder of a VQGAN of the same sizes whose encoder and decoder are learned on; its codebook is
    fitted anew, to the frames given here."""
    encoder_start: int = 1_000_000
    """Step at which encoder and codebook begin to learn too; `steps` or more leaves them as they
    start, principal components and k-means. So it is by default: on two cores, in 800 steps,
    learning from step 300 cost 0.3 dB and doubled the codes of a still place that change. It is for
    corpora, and training times, that a projection is too simple for."""
    encoder_lr: float = 0.02
    """Learning rate of the encoder, as a share of the decoder's: it starts near its goal."""
    seed: int = 0
    """Seed of the initial weights, the codebook and the crops."""
    resolution: int = 256
    """Side of the squared frames in pixels."""
    crop: int = 64
    """Side of the random crops trained on: small ones are quick, and codes are local."""
    whole_frames: float = 0.25
    """Share of the steps, at the end, that use whole frames: normalisation spans the picture."""
    widths: tuple[int, ...] = (8, 16, 48, 96, 144)
    """Channels at each scale; n scales make n - 1 halvings, so five make a code of 16 pixels.
    (128, 128, 256, 256, 512) is the size of VQGAN's own, for a GPU."""
    layers: int = 1
    """Residual blocks at each scale of the encoder; the decoder has one more."""
    groups: int = 2
    """Groups of each group normalisation; divides every width and `code_width`."""
    codes: int = 1024
    """Size of the codebook."""
    code_width: int = 16
    """Dimensions of a code."""
    latent_channels: int = 64
    """Channels between codebook and decoder."""
    commitment: float = 0.25
    """Weight of the loss that keeps latents near their codes (beta of VQ-VAE)."""
    codebook_decay: float = 0.998
    """Codes follow the moving average of their latents with this decay (VQ-VAE, appendix A). Large
    batches want less: 8 crops of 64 pixels bring each of 1,024 codes an eighth of a latent."""
    dead_after: int = 500
    """Steps without a latent after which a code starts again at a recent latent."""
    average_decay: float = 0.999
    """Decay of the moving average of the weights, which is what is saved."""
    l1: float = 1.0
    """Weight of the absolute difference, of pixels from 0 to 1."""
    l2: float = 1.0
    """Weight of the squared difference."""
    perceptual: Free[Path | None] = None
    """Folder with vgg16-397923af.pth and vgg.pth for LPIPS; without, the differences of image
    gradients at three scales take its place."""
    perceptual_weight: float = 1.0
    """Weight of LPIPS, or of what takes its place."""
    discriminator_start: int = 3500
    """Step at which the discriminator begins; `steps` or more leaves it out."""
    discriminator_ramp: int = 500
    """Steps over which its weight rises from nothing, while it learns to tell pictures apart."""
    discriminator_weight: float = 0.1
    """Weight of the discriminator's loss. VQGAN takes 0.8 after weeks on GPUs."""
    adaptive: bool = True
    """Multiply that weight by the ratio of both losses' gradients at the decoder's last layer."""
    discriminator_width: int = 32
    """Channels of the discriminator's first layer; PatchGAN's own has 64."""
    discriminator_lr: float = 0.1
    """Learning rate of the discriminator, as a share of the decoder's."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    gap_s: float = 0.5
    """Seconds between the two frames of a pair; pairs measure how codes flicker."""
    max_pairs: int = 2000
    """Pairs held in memory: 2,000 take 0.8 GB at 256 pixels."""
    refresh: int = 0
    """Steps after which other pairs are read, for corpora larger than memory; 0: never."""
    still: Free[float] = 2.0
    """Mean difference (of 255) below which a code's square counts as still, when evaluated."""
    log_every: Free[int] = 50
    """Steps between lines of the log."""
    val_every: Annotated[int, tyro.conf.arg(aliases=["--eval-every"]), FREE] = 500
    """Steps between validations, each with a picture of reconstructions."""
    eval_pairs: Free[int] = 64
    """Held-out pairs of frames to validate on, the same share of each source."""
    save_every: Free[int] = 500
    """Steps between checkpoints; SIGTERM saves too."""
    threads: Free[int] = 2
    """CPU threads. Another number may change the last digits."""
    skip_nonfinite: Free[int] = 1
    """Stop after so many steps whose loss or gradient was not finite; each of them is skipped."""

    @property
    def downsample(self) -> int:
        """Pixels per code, along each side."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def title(self) -> str:
        """The name that shard manifests record."""
        return self.name or self.out.name

    def with_absolute_paths(self) -> Self:
        """The same options for a process that runs in another folder."""
        places: Any = {name: tuple(map(absolute_place, getattr(self, name))) for name in PLACES}
        return replace(super().with_absolute_paths(), **places)

    def check(self) -> None:
        """Check the options before anything is read.

        Raises:
            UserError: which option, and what it has to be.
        """
        from handloom.tokenize.vqgan import MAX_CODES  # here: it takes as long as all of --help

        super().check()
        for name in COUNTS:
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {getattr(self, name)}: it has to be 1 or more.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"--lr {self.lr:g}: the learning rate has to be above 0.")
        if self.codes > MAX_CODES:
            raise UserError(f"--codes {self.codes:,}: uint16 holds {MAX_CODES:,} at most.")
        _check_widths(self)
        square = self.downsample
        for name in ("resolution", "crop"):
            side = getattr(self, name)
            if side < square or side % square:
                raise UserError(
                    f"--{name} {side}: {len(self.widths)} widths make codes of {square} pixels, so "
                    f"it has to be a multiple of {square}."
                )


PLACES = ("frames", "held_out")
COUNTS = (
    "steps", "batch_size", "codes", "max_pairs", "eval_pairs", "dead_after", "log_every",
    "val_every", "save_every",
)  # fmt: skip


def _check_widths(config: VQGANConfig) -> None:
    """The widths that the start from principal components needs (see `linear_start.py`)."""
    widths, signals = config.widths, config.code_width + config.groups
    if len(widths) < 2:
        raise UserError("--widths needs two numbers at least: each one more halves the picture.")
    uneven = [w for w in (*widths, config.code_width) if w % config.groups]
    if uneven:
        raise UserError(f"--groups {config.groups} does not divide the width {uneven[0]}.")
    if widths[-1] < 2 * signals:
        raise UserError(
            f"the last of --widths is {widths[-1]}; codes of {config.code_width} dimensions "
            f"in {config.groups} groups need {2 * signals} channels."
        )
    if widths[-1] == widths[-2]:
        raise UserError(
            f"the last two of --widths are both {widths[-1]}; the encoder's start needs a last "
            "width of its own."
        )
