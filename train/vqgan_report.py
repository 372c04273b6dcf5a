"""Measure an image tokenizer on held-out pairs of frames, and write the card of a trained one.

Shapes: B pairs, P = 2 frames of a pair, N = B * P pictures, H x W pixels, I x J codes.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handloom.tokenize import vqgan
from handloom.tokenize.frames import RESIZE_RULE

if TYPE_CHECKING:
    from handloom.train.vqgan import VQGANConfig

GRID_COLUMNS = 4


def evaluate(
    tokenizer: vqgan.VQGAN, pairs_bphwc: NDArray[np.uint8], still_below: float
) -> dict[str, float]:
    """Measure a tokenizer on pairs of frames a short time apart.

    Args:
        tokenizer: any tokenizer.
        pairs_bphwc: uint8 [B, 2, H, W, 3].
        still_below: mean difference, of 255, below which a code's square counts as still.

    Returns:
        psnr_db: of the reconstruction. mean_color_psnr_db: of each frame's mean colour, the floor.
        codes_used, perplexity: of these frames. flips_still, flips_all: share of codes that differ
        within a pair, where nothing moves and everywhere.
    """
    frames_nhwc = pairs_bphwc.reshape(-1, *pairs_bphwc.shape[2:])
    codes_nij = tokenizer.encode(frames_nhwc)
    means = np.broadcast_to(frames_nhwc.mean((1, 2), keepdims=True), frames_nhwc.shape)
    share_k = np.bincount(codes_nij.reshape(-1), minlength=tokenizer.codebook_size) / codes_nij.size
    used = share_k[share_k > 0]
    codes_bpij = codes_nij.reshape(-1, 2, *codes_nij.shape[1:])
    flipped_bij = codes_bpij[:, 0] != codes_bpij[:, 1]
    still_bij = _still(pairs_bphwc, tokenizer.downsample, still_below)
    return {
        "psnr_db": round(psnr_db(tokenizer.decode(codes_nij), frames_nhwc), 2),
        "mean_color_psnr_db": round(psnr_db(means, frames_nhwc), 2),
        "codes_used": len(used),
        "perplexity": round(float(np.exp(-(used * np.log(used)).sum())), 1),
        "flips_still": round(float(flipped_bij[still_bij].mean()) if still_bij.any() else 0.0, 4),
        "flips_all": round(float(flipped_bij.mean()), 4),
    }


def _still(pairs_bphwc: NDArray[np.uint8], square: int, below: float) -> NDArray[np.bool_]:
    """Mark the codes whose square of pixels hardly differs within a pair, [B, I, J]."""
    moved_bhwc = np.abs(pairs_bphwc[:, 0].astype(np.int16) - pairs_bphwc[:, 1])
    count, height, width, _ = moved_bhwc.shape
    squares = moved_bhwc.reshape(count, height // square, square, width // square, square, 3)
    still: NDArray[np.bool_] = squares.mean((2, 4, 5)) < below
    return still


def psnr_db(a_thwc: NDArray[Any], b_thwc: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in decibels, of pixels from 0 to 255.

    Of the error over all frames: a mean of each frame's ratio would be ruled by one black video.
    """
    error = (a_thwc.astype(np.float32) - b_thwc.astype(np.float32)).ravel()
    return float(10 * np.log10(255**2 / max(float(np.square(error).mean()), 1e-6)))


def speed(tokenizer: vqgan.VQGAN, frames_thwc: NDArray[np.uint8]) -> dict[str, float]:
    """Time `encode` and `decode`, in milliseconds a frame, as the best of five runs."""
    codes_tij = tokenizer.encode(frames_thwc)
    return {
        "encode_ms": _best_ms(lambda: tokenizer.encode(frames_thwc), len(frames_thwc)),
        "decode_ms": _best_ms(lambda: tokenizer.decode(codes_tij), len(frames_thwc)),
    }


def _best_ms(work: Callable[[], object], frames: int) -> float:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return round(min(seconds) / frames * 1000, 1)


def draw_grid(tokenizer: vqgan.VQGAN, pairs_bphwc: NDArray[np.uint8], path: Path) -> None:
    """Draw a few frames, evenly chosen, above what their codes give back."""
    count = len(pairs_bphwc)
    chosen = np.linspace(0, count - 1, min(GRID_COLUMNS, count)).astype(int)
    frames_thwc = pairs_bphwc[chosen, 0]
    painted_thwc = tokenizer.decode(tokenizer.encode(frames_thwc))
    rows = [np.concatenate(list(row), axis=1) for row in (frames_thwc, painted_thwc)]
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)


def card(
    config: VQGANConfig, tokenizer: vqgan.VQGAN, counts: dict[str, int], facts: dict[str, float]
) -> str:
    """Write the README.md of a trained tokenizer from what was measured."""
    side, grid = tokenizer.resolution, tokenizer.resolution // tokenizer.downsample
    low, high = tokenizer.input_range
    weights = sum(parameter.numel() for parameter in tokenizer.network.parameters())
    rows = {
        "trained on": f"{counts['train_pairs']:,} pairs of frames, {config.gap_s:g} s apart, "
        f"from {counts['train_files']} files",
        "held out": f"{counts['held_out_pairs']:,} pairs from {counts['held_out_files']} others",
        "steps, seed": f"{config.steps:,}, {config.seed}",
        "held-out PSNR": f"{facts['psnr_db']} dB "
        f"({facts['mean_color_psnr_db']} dB for the mean colour of each frame)",
        "codes in use (held out)": f"{facts['codes_used']:,.0f} of {tokenizer.codebook_size:,}, "
        f"perplexity {facts['perplexity']}",
        f"codes that change in {config.gap_s:g} s": f"{facts['flips_still']:.1%} where nothing "
        f"moves (mean difference below {config.still:g} of 255), {facts['flips_all']:.1%} overall",
        "encode, decode": f"{facts['encode_ms']}, {facts['decode_ms']} ms a frame, "
        f"one thread, {_machine()}",
        "weights": f"{weights:,} ({weights * 2 / 1e6:.1f} MB: fp16 on disk, run in fp32)",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# {tokenizer.name}

An image tokenizer: {side} x {side} pixels become {grid} x {grid} codes out of
{tokenizer.codebook_size:,}. A `diffusers.VQModel` with inputs in [{low:g}, {high:g}]
(see `{vqgan.SIDECAR}`); frames are prepared by `{RESIZE_RULE}`.

| | |
|---|---|
{table}

```
handloom train vqgan {_flags(config)}
```

`metrics.jsonl` is the training curve; `reconstructions.png` shows held-out frames above what their
codes give back. There was no discriminator and no pretrained perceptual loss, so fine texture is
smooth. It knows what it was trained on and nothing else: expect it to fail on other footage.
"""


def _flags(config: VQGANConfig) -> str:
    flags = []
    for option in dataclasses.fields(config):
        value = getattr(config, option.name)
        if value == option.default:
            continue
        if isinstance(value, Path):
            value = value.name  # where the folder lay on this machine helps nobody
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        flags.append(f"--{option.name.replace('_', '-')} {shown}")
    return " ".join(flags)


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
