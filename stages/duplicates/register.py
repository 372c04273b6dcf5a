"""What is left when small pictures of two clips are laid over each other.

Shapes: R pairs of frames.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.stages.duplicates import fingerprints as fp
from handloom.stages.duplicates.warp import (
    Floats,
    blurred,
    halved,
    lay_over,
    sampled,
    shifted,
)

BLOCK = 1024  # pairs of frames laid over each other at a time: 100 MB
Bools = npt.NDArray[np.bool_]
LUMA_NOISE, CHROMA_NOISE = 6.0, 6.0  # levels that lossy encoding moves a cell of a picture by
SLACK = 0.5  # cells that a fit may be off by, times the slope there
COARSE = 3.0  # cells; a hand is about ten of them wide


@dataclass(frozen=True)
class Fit:
    """How pairs of frames fit when laid over each other."""

    warp: Floats  # [R, 4], see overlay.py
    edges: Floats  # [R] correlation of what is finer than three cells, -1 to 1
    differs: Floats  # [R] share of the picture that differs, 0 to 1
    overlap: Floats  # [R] share of the first picture that lies in the second
    luma: Floats  # [R, 64] first minus second, soft, on 8x8 places, in units of noise
    color: Floats  # [R, 128] the same of blue and red difference

    def __getitem__(self, rows: object) -> "Fit":
        return Fit(*(getattr(self, name)[rows] for name in Fit.__dataclass_fields__))


def register(
    first: fp.Fingerprints,
    second: fp.Fingerprints,
    mirror: Bools,
    warp: Floats,
    rough: bool = False,
) -> Fit:
    """Lay frames over frames, starting from warps.

    Args:
        first: uint8 [R, 1152].
        second: uint8 [R, 1152].
        mirror: bool [R], whether the second frame is mirrored before.
        warp: float32 [R, 4], where places of the first frame about lie in the second.
        rough: at half the resolution, and only near the given warp; for a first look.
    """
    fits = []
    for start in range(0, len(first), BLOCK):
        part = slice(start, start + BLOCK)
        flip = mirror[part]
        a, b = fp.luma(first[part]), _mirrored(fp.luma(second[part]), flip)
        small = halved(a), halved(b)
        if rough:
            found = lay_over(*small, warp[part], rounds=6)
        else:
            found = lay_over(*small, shifted(*small, warp[part]), rounds=4)
            found = lay_over(a, b, found, rounds=3)
        chroma = fp.chroma(first[part]), _mirrored(fp.chroma(second[part]), flip)
        fits.append(_measure(a, b, *chroma, found))
    if not fits:
        return Fit(
            *(np.empty((0, *shape), np.float32) for shape in ((4,), (), (), (), (64,), (128,)))
        )
    columns = [[getattr(fit, name) for fit in fits] for name in Fit.__dataclass_fields__]
    return Fit(*(np.concatenate(column) for column in columns))


def _mirrored(pictures: Floats, mirror: Bools) -> Floats:
    return np.where(mirror.reshape(-1, *[1] * (pictures.ndim - 1)), pictures[..., ::-1], pictures)


def _measure(a: Floats, b: Floats, a_chroma: Floats, b_chroma: Floats, warp: Floats) -> Fit:
    """What is left when second pictures lie over first ones, where they overlap."""
    seen, inside = sampled(b[:, None], warp, fp.LUMA_SIDE)
    a, b = blurred(a, 0.5), blurred(seen[:, 0], 0.5)
    weight = inside / (inside.sum(axis=(1, 2), keepdims=True) + 1e-6).astype(np.float32)

    def mean(values: Floats) -> Floats:
        return np.asarray((values * weight).sum(axis=(1, 2), keepdims=True), np.float32)

    ours, theirs = a - mean(a), b - mean(b)
    # A copy may be somewhat brighter or of another contrast.
    left = ours - (mean(ours * theirs) / (mean(theirs**2) + 1)).clip(0.7, 1.4) * theirs
    color_left = a_chroma - sampled(b_chroma, warp, fp.CHROMA_SIDE)[0]
    steep = np.hypot(*np.gradient(a, axis=(1, 2)))
    wrong = (left / (LUMA_NOISE + SLACK * steep)) ** 2 + _wrong_color(a_chroma, color_left)
    fine = a - blurred(a, 3), b - blurred(b, 3)
    strength = np.sqrt(mean(fine[0] ** 2) * mean(fine[1] ** 2) + 1e-3)
    return Fit(
        warp,
        (mean(fine[0] * fine[1]) / strength).ravel(),
        mean(wrong / (1 + wrong)).ravel(),
        inside.mean(axis=(1, 2), dtype=np.float32),
        blurred(left * inside, COARSE)[:, 2::4, 2::4].reshape(-1, 64) / LUMA_NOISE,
        blurred(color_left * inside[:, None, 2::4, 2::4], 0.6).reshape(-1, 128) / CHROMA_NOISE,
    )


def _wrong_color(a: Floats, left: Floats) -> Floats:
    """Squared difference of colour in units of what is usual, on the grid of luma [R, 32, 32]."""
    steep = np.hypot(*np.gradient(a, axis=(2, 3)))
    wrong = ((left / (CHROMA_NOISE + SLACK * steep)) ** 2).mean(axis=1)
    step = fp.LUMA_SIDE // fp.CHROMA_SIDE
    return np.repeat(np.repeat(wrong, step, axis=1), step, axis=2)
