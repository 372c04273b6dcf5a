"""`handloom eval tokenizer`: a VQGAN measured on held-out frames of some datasets."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handloom.errors import UserError
from handloom.train.vqgan.config import VQGANConfig

BATCH = 8  # frames measured at a time


@dataclass(frozen=True)
class TokenizerEval:
    """Measure a tokenizer: PSNR, SSIM, use of its codes, and pictures, for each dataset."""

    frames: tuple[str, ...]
    """Sources of frames, as in `handloom train vqgan`: the output folder of `handloom curate`, or a
    folder of videos and images. Frames that training holds out are measured."""
    model: str = "bundled"
    """`bundled`, `bundled-128` (a quarter of the codes), a folder, a `.ckpt` or `.pt` file, or a
    hub id; see docs/tokenizers.md."""
    out: Path = Path("runs/tokenizer")
    """Folder for tokenizer.json and a picture of each dataset."""
    per_dataset: int = 200
    """Frames of each, spread evenly."""
    resolution: int | None = None
    """Side of the squared frames, pixels; by default the model's own."""
    input_range: tuple[float, float] | None = None
    """Values that the model expects for black and white; by default those that its folder names."""
    lpips: Path | None = None
    """Folder with vgg16-397923af.pth and vgg.pth; without it LPIPS is left out."""
    device: str = "cpu"
    """A torch device, such as `cpu` or `cuda`."""
    threads: int = 2
    """CPU threads."""


def evaluate(config: TokenizerEval) -> None:
    """Measure, print a line for each dataset, and write what was found below `config.out`.

    Raises:
        UserError: a source or a model that cannot be read.
    """
    from handloom.tokenize import vqgan
    from handloom.tokenize.measure.report import measure
    from handloom.train.vqgan.frames import held_out_frames

    if not config.frames:
        raise UserError("--frames names no source: give it one folder at least.")
    model = vqgan.load(
        config.model, config.device, config.threads, config.input_range, config.resolution
    )
    reading = VQGANConfig(frames=config.frames, out=config.out, resolution=model.resolution)
    frames = held_out_frames(reading, config.per_dataset)
    found = measure(
        model, {name: _batches(f) for name, f in frames.items()}, config.out, config.lpips
    )
    for name, row in found["datasets"].items():
        print(
            f"{name}: {row['frames']} frames, PSNR {row['psnr_db']:.2f} dB (mean colour "
            f"{row['mean_color_psnr_db']:.2f}), SSIM {row['ssim']:.3f}, "
            f"{row['codes_used']} codes used, entropy {row['entropy_bits']:.2f} of "
            f"{row['codebook_bits']:.2f} bits"
        )
    print(f"pictures and tokenizer.json: {config.out}")


def _batches(frames_thwc: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(frames_thwc), BATCH):
        yield frames_thwc[start : start + BATCH]
