"""Measurement of a tokenizer on some datasets: reconstruction, use of the codebook, pictures.

T frames of a batch, H x W pixels, I x J codes, K codes in the codebook.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handloom.errors import UserError
from handloom.files import write_text
from handloom.tokenize.measure.pixels import Distance, psnr_db, ssim
from handloom.tokenize.vqgan import VQGAN

GRID_FRAMES = 8  # pairs of a dataset that are drawn: original above, reconstruction below


def measure(
    model: VQGAN,
    frames_by_dataset: Mapping[str, Iterable[NDArray[np.uint8]]],
    out: Path,
    lpips: Path | None = None,
) -> dict[str, Any]:
    """Measure a tokenizer on frames of several datasets, and draw their reconstructions.

    Args:
        model: any tokenizer.
        frames_by_dataset: per name, batches uint8 [T, H, W, 3] as `frames.center_square` prepares
            them; only one batch is held at a time.
        out: a folder; `tokenizer.json` and one `<dataset>.png` are written into it.
        lpips: a folder with the weights of LPIPS (see `lpips.load`); without it LPIPS is
            left out.

    Returns:
        What `tokenizer.json` holds: `tokenizer` (name, weights_sha256, …), per dataset and for
        `all`: frames, psnr_db, mean_color_psnr_db (the floor: each frame's mean colour), ssim,
        lpips (if asked for), codes_used, codes_used_share, entropy_bits and perplexity of the
        codes, and codebook_bits, what the entropy could be at most. Pictures are averaged.

    Raises:
        UserError: a dataset without frames.
        ValueError: frames that are not of the tokenizer's resolution.
    """
    distance: Distance | None = None
    if lpips is not None:
        from handloom.tokenize.measure.lpips import load

        distance = load(lpips, model.device)
    out.mkdir(parents=True, exist_ok=True)
    total = Tally(model.codebook_size)
    results: dict[str, Any] = {}
    for name, batches in frames_by_dataset.items():
        tally = Tally(model.codebook_size)
        for frames_thwc in batches:
            tally.add(model, frames_thwc, distance)
        if not tally.frames:
            raise UserError(f"{name} gave no frames to measure {model.name} on")
        results[name] = tally.facts()
        draw(tally.shown, out / f"{name}.png")
        total.merge(tally)
    facts = {
        "tokenizer": {
            "name": model.name,
            "weights_sha256": model.weights_sha256,
            "codebook_size": model.codebook_size,
            "resolution": model.resolution,
            "downsample": model.downsample,
            "input_range": list(model.input_range),
        },
        "datasets": results,
        "all": total.facts() if total.frames else {},
    }
    write_text(out / "tokenizer.json", json.dumps(facts, indent=2) + "\n")
    return facts


@dataclass
class Tally:
    """Sums over frames, and how often each code was used."""

    codebook_size: int
    frames: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    used_k: NDArray[np.int64] = field(init=False)
    shown: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.used_k = np.zeros(self.codebook_size, np.int64)

    def add(self, model: VQGAN, frames_thwc: NDArray[np.uint8], distance: Distance | None) -> None:
        """Encode, decode and compare a batch."""
        codes_tij = model.encode(frames_thwc)
        decoded_thwc = model.decode(codes_tij)
        self.used_k += np.bincount(codes_tij.reshape(-1), minlength=self.codebook_size)
        for frame, decoded in zip(frames_thwc, decoded_thwc, strict=True):
            flat = np.broadcast_to(frame.mean((0, 1)), frame.shape)
            values = {
                "psnr_db": psnr_db(frame, decoded),
                "mean_color_psnr_db": psnr_db(frame, flat),
                "ssim": ssim(frame, decoded),
            }
            if distance is not None:
                values["lpips"] = distance(frame, decoded)
            self.frames += 1
            for key, value in values.items():
                self.sums[key] = self.sums.get(key, 0.0) + value
            if len(self.shown) < GRID_FRAMES:
                self.shown.append((frame.copy(), decoded.copy()))

    def merge(self, other: Tally) -> None:
        """Take in another dataset's sums."""
        self.frames += other.frames
        self.used_k += other.used_k
        for key, value in other.sums.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def facts(self) -> dict[str, float]:
        """Means over frames, and use and entropy of the codes."""
        bits = entropy_bits(self.used_k)
        used = int((self.used_k > 0).sum())
        return {
            "frames": self.frames,
            **{key: round(value / self.frames, 4) for key, value in self.sums.items()},
            "codes_used": used,
            "codes_used_share": round(used / self.codebook_size, 4),
            "entropy_bits": round(bits, 4),
            "perplexity": round(2**bits, 2),
            "codebook_bits": round(float(np.log2(self.codebook_size)), 4),
        }


def entropy_bits(used_k: NDArray[np.int64]) -> float:
    """Shannon entropy, -sum p log2 p, of how often each code was used."""
    shares = used_k[used_k > 0] / max(1, used_k.sum())
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def draw(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], path: Path) -> None:
    """Write a PNG of frames, each above its reconstruction."""
    columns = [np.concatenate(pair, axis=0) for pair in pairs]
    Image.fromarray(np.concatenate(columns, axis=1)).save(path)
