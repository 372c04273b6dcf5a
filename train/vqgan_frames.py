"""Pairs of frames, a short time apart, for training an image tokenizer (`train.vqgan`).

Shapes: B pairs, P = 2 frames of a pair, H x W pixels.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handloom.errors import UserError
from handloom.tokenize.frames import center_square

VIDEOS = {".mp4", ".mkv", ".webm", ".avi", ".mov"}
IMAGES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class FramePairs:
    """Squared frames in memory. No file has pairs in both sets."""

    train: NDArray[np.uint8]
    """[B, P, H, W, 3] RGB."""
    held_out: NDArray[np.uint8]
    """The same, from other files."""
    counts: dict[str, int]
    """How many files and pairs there are, and how many files could not be read."""


def read_pairs(
    folder: Path,
    held_out: Path | None,
    limits: tuple[int, int],
    gap_s: float,
    resolution: int,
) -> FramePairs:
    """Read pairs from all videos and images of a folder.

    Args:
        folder: searched recursively.
        held_out: a second such folder; without one, the tenth of the files in `folder` whose
            names' hashes are smallest is held out.
        limits: most training and most held-out pairs; files share them equally.
        gap_s: seconds between the frames of a pair; an image makes a pair with itself.
        resolution: side of the frames in pixels.

    Raises:
        UserError: too few files, or none that can be read.
    """
    files = _media(folder)
    if held_out is None:
        by_hash = sorted(files, key=lambda path: hashlib.sha256(path.name.encode()).digest())
        tenth = max(1, len(files) // 10)
        chosen = by_hash[tenth:], by_hash[:tenth]
    else:
        chosen = files, _media(held_out)
    if not all(chosen):
        raise UserError(
            f"{len(files)} videos or images in {folder}: training needs one at least and "
            "validation another; add some, or name a second folder with --held-out"
        )
    counts: dict[str, int] = {}
    arrays = []
    for name, paths, limit in zip(("train", "held_out"), chosen, limits, strict=True):
        pairs, unreadable = _read(paths, limit, gap_s, resolution)
        counts |= {
            f"{name}_files": len(paths) - unreadable,
            f"{name}_unreadable": unreadable,
            f"{name}_pairs": len(pairs),
        }
        arrays.append(pairs)
    return FramePairs(arrays[0], arrays[1], counts)


def _media(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS | IMAGES)


def _read(
    files: list[Path], limit: int, gap_s: float, resolution: int
) -> tuple[NDArray[np.uint8], int]:
    """Read up to `limit` pairs, as many of each file; also count the files that do not open."""
    import av

    pairs: list[NDArray[np.uint8]] = []
    unreadable = 0
    for path in files:
        try:
            if path.suffix.lower() in IMAGES:
                with Image.open(path) as image:
                    frame = center_square(np.asarray(image.convert("RGB")), resolution)
                pairs.append(np.stack([frame, frame]))
            else:
                pairs.extend(_of_video(path, math.ceil(limit / len(files)), gap_s, resolution))
        except (OSError, av.error.FFmpegError):
            unreadable += 1
    if not pairs:
        raise UserError(f"none of {len(files)} files could be read, the first being {files[0]}")
    kept = np.linspace(0, len(pairs) - 1, min(limit, len(pairs))).astype(int)
    return np.stack([pairs[index] for index in kept]), unreadable


def _of_video(path: Path, count: int, gap_s: float, resolution: int) -> list[NDArray[np.uint8]]:
    """Return up to `count` pairs, evenly spaced, from one pass over the video."""
    import av

    frames: dict[float, NDArray[np.uint8]] = {}
    with av.open(str(path)) as container:
        if not container.streams.video:
            return []
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        # a container that does not say how long it is counts as two gaps long
        seconds = container.duration / av.time_base if container.duration else 2 * gap_s
        count = min(count, max(1, int(seconds / gap_s)))
        firsts = np.linspace(0, max(0.0, seconds - gap_s - 0.1), count).round(3).tolist()
        spans = [(first, round(first + gap_s, 3)) for first in firsts]
        wanted = sorted({time_s for span in spans for time_s in span})
        for frame in container.decode(stream):
            while wanted and frame.time is not None and frame.time >= wanted[0] - 1e-3:
                rgb_hwc = frame.to_ndarray(format="rgb24")
                frames[wanted.pop(0)] = center_square(rgb_hwc, resolution)
            if not wanted:
                break
    return [np.stack([frames[a], frames[b]]) for a, b in spans if a in frames and b in frames]
