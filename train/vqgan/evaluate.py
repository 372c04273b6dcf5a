"""Measure an image tokenizer on held-out pairs of frames, and draw what it gives back.

Shapes: B pairs, P = 2 frames of a pair, N = B * P pictures, H x W pixels, I x J codes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handloom.files import whole
from handloom.tokenize import vqgan
from handloom.tokenize.measure.pixels import psnr_db

if TYPE_CHECKING:
    from handloom.train.trainer.distributed import World
    from handloom.train.vqgan.config import VQGANConfig
    from handloom.train.vqgan.frames import Pool

GRID_COLUMNS, GRID_SIDE = 12, 96  # pictures of a grid, and their side in pixels


def tokenizer_of(model: Any, config: VQGANConfig) -> vqgan.VQGAN:
    """Wrap a model in training, so that it is measured by the code that will use it."""
    from handloom.train.vqgan.model import INPUT_RANGE

    return vqgan.VQGAN(
        name=config.title,
        weights_sha256="",  # not saved yet
        codebook_size=config.codes,
        downsample=config.downsample,
        resolution=config.resolution,
        input_range=INPUT_RANGE,
        network=model,
        device=config.device,
    )


def evaluate_sources(
    tokenizer: vqgan.VQGAN, held_out: Pool, still_below: float, world: World | None = None
) -> dict[str, Any]:
    """Scores of `evaluate` for all held-out pairs together, and under `sources` for each source.

    The processes of a world share the pairs; then only rank 0 has the result, the others {}.
    """
    reconstructed = [_shared(tokenizer, pairs, world) for pairs in held_out.pairs]
    if world is not None and not world.is_first:
        return {}
    each, parts = [], []
    for pairs, (codes_bpij, decoded) in zip(held_out.pairs, reconstructed, strict=True):
        each.append(evaluate(tokenizer, pairs, codes_bpij, decoded, still_below))
        parts.append((pairs, codes_bpij, decoded))
    all_pairs, all_codes, all_decoded = (np.concatenate(part) for part in zip(*parts, strict=True))
    facts: dict[str, Any] = evaluate(tokenizer, all_pairs, all_codes, all_decoded, still_below)
    return {**facts, "sources": dict(zip(held_out.names, each, strict=True))}


def _shared(
    tokenizer: vqgan.VQGAN, pairs_bphwc: NDArray[np.uint8], world: World | None
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    if world is None or world.size == 1:
        return _reconstructed(tokenizer, pairs_bphwc)
    mine = _reconstructed(tokenizer, pairs_bphwc[world.share(len(pairs_bphwc))])
    rows = world.collect(list(zip(*mine, strict=True)), len(pairs_bphwc))
    if not rows:
        return mine
    codes, decoded = zip(*rows, strict=True)
    return np.stack(codes), np.stack(decoded)


def _reconstructed(
    tokenizer: vqgan.VQGAN, pairs_bphwc: NDArray[np.uint8]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Codes [B, P, I, J] of pairs, and what they give back [B, P, H, W, 3]."""
    codes_nij = tokenizer.encode(pairs_bphwc.reshape(-1, *pairs_bphwc.shape[2:]))
    codes_bpij = codes_nij.reshape(*pairs_bphwc.shape[:2], *codes_nij.shape[1:])
    return codes_bpij, tokenizer.decode(codes_nij).reshape(pairs_bphwc.shape)


def evaluate(
    tokenizer: vqgan.VQGAN,
    pairs_bphwc: NDArray[np.uint8],
    codes_bpij: NDArray[np.uint16],
    decoded_bphwc: NDArray[np.uint8],
    still_below: float,
) -> dict[str, float]:
    """Measure a tokenizer on pairs of frames a short time apart.

    Args:
        tokenizer: that made the codes.
        pairs_bphwc: uint8 [B, 2, H, W, 3].
        codes_bpij: their codes.
        decoded_bphwc: what the codes give back.
        still_below: mean difference, of 255, below which a code's square counts as still.

    Returns:
        psnr_db: of the reconstruction. mean_color_psnr_db: of each frame's mean colour, the floor.
        codes_used, perplexity: of these frames. flips_still, flips_all: share of codes that differ
        within a pair, where nothing moves and everywhere.
    """
    means = np.broadcast_to(pairs_bphwc.mean((2, 3), keepdims=True), pairs_bphwc.shape)
    counts_k = np.bincount(codes_bpij.reshape(-1), minlength=tokenizer.codebook_size)
    used = counts_k[counts_k > 0] / codes_bpij.size
    flipped_bij = codes_bpij[:, 0] != codes_bpij[:, 1]
    still_bij = _still(pairs_bphwc, tokenizer.downsample, still_below)
    return {
        "psnr_db": round(psnr_db(decoded_bphwc, pairs_bphwc), 2),
        "mean_color_psnr_db": round(psnr_db(means, pairs_bphwc), 2),
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


def draw_grid(tokenizer: vqgan.VQGAN, held_out: Pool, path: Path) -> None:
    """Draw held-out frames of each source above what their codes give back."""
    each = max(1, GRID_COLUMNS // len(held_out.pairs))
    chosen = []
    for pairs in held_out.pairs:
        places = np.linspace(0, len(pairs) - 1, min(each, len(pairs))).astype(int)
        chosen.append(pairs[places, 0])
    frames_thwc = np.concatenate(chosen)
    decoded_thwc = tokenizer.decode(tokenizer.encode(frames_thwc))
    grid = np.concatenate([_row(frames_thwc), _row(decoded_thwc)])
    with whole(path) as temporary:
        Image.fromarray(grid).save(temporary, format="PNG", optimize=True)


def _row(frames_thwc: NDArray[np.uint8]) -> NDArray[np.uint8]:
    small = [
        np.asarray(Image.fromarray(frame).resize((GRID_SIDE, GRID_SIDE), Image.Resampling.LANCZOS))
        for frame in frames_thwc
    ]
    row: NDArray[np.uint8] = np.concatenate(small, axis=1)
    return row
