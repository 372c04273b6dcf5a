"""Registration of frame pairs: fingerprints warped onto each other, and how well they fit.

Shapes: R pairs of frames.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.stages.duplicates import fingerprints as fp
from handloom.stages.duplicates.warp import (
    Floats,
    blur,
    downsample,
    match_shift,
    refine_warp,
    sample,
)

CHUNK = 1024  # pairs of frames registered at a time: 100 MB
Bools = npt.NDArray[np.bool_]
LUMA_NOISE, CHROMA_NOISE = 6.0, 6.0  # levels by which lossy encoding moves a cell
SLACK = 0.5  # cells by which a fit may be off; weighted by the slope there
SOFT_SIGMA = 3.0  # cells; a hand is about ten of them wide


@dataclass(frozen=True)
class Fit:
    """Fit of pairs of frames, the second one warped onto the first."""

    warp: Floats  # [R, 4], see warp.py
    edges: Floats  # [R] correlation of detail finer than three cells, -1 to 1
    difference: Floats  # [R] share of the image that differs, 0 to 1
    overlap: Floats  # [R] share of the first image that lies in the second, 0 to 1
    luma: Floats  # [R, 64] blurred first minus second on a grid of 8x8, in units of noise
    color: Floats  # [R, 128] the same for blue and red difference

    def __getitem__(self, rows: object) -> "Fit":
        return Fit(*(getattr(self, name)[rows] for name in Fit.__dataclass_fields__))


def register(
    first: fp.Fingerprints,
    second: fp.Fingerprints,
    mirror: Bools,
    warp: Floats,
    rough: bool = False,
) -> Fit:
    """Fits of pairs of frames, refined from given warps.

    Args:
        first: uint8 [R, 1152].
        second: uint8 [R, 1152].
        mirror: bool [R], whether the second frame is mirrored first.
        warp: float32 [R, 4], approximate map from the first frame to the second.
        rough: at half the resolution and only near the given warp; screens candidates.
    """
    fits = []
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        flip = mirror[part]
        a, b = fp.luma(first[part]), _flip(fp.luma(second[part]), flip)
        small = downsample(a), downsample(b)
        if rough:
            fitted = refine_warp(*small, warp[part], rounds=6)
        else:
            fitted = refine_warp(*small, match_shift(*small, warp[part]), rounds=4)
            fitted = refine_warp(a, b, fitted, rounds=3)
        chroma = fp.chroma(first[part]), _flip(fp.chroma(second[part]), flip)
        fits.append(_measure(a, b, *chroma, fitted))
    if not fits:
        return Fit(
            *(np.empty((0, *shape), np.float32) for shape in ((4,), (), (), (), (64,), (128,)))
        )
    columns = [[getattr(fit, name) for fit in fits] for name in Fit.__dataclass_fields__]
    return Fit(*(np.concatenate(column) for column in columns))


def _flip(pictures: Floats, mirror: Bools) -> Floats:
    return np.where(mirror.reshape(-1, *[1] * (pictures.ndim - 1)), pictures[..., ::-1], pictures)


def _measure(a: Floats, b: Floats, a_chroma: Floats, b_chroma: Floats, warp: Floats) -> Fit:
    """The fit of second images warped onto first ones [R, 32, 32], where they overlap."""
    warped, inside = sample(b[:, None], warp, fp.LUMA_SIDE)
    a, b = blur(a, 0.5), blur(warped[:, 0], 0.5)
    weight = inside / (inside.sum(axis=(1, 2), keepdims=True) + 1e-6).astype(np.float32)

    def mean(values: Floats) -> Floats:
        return np.asarray((values * weight).sum(axis=(1, 2), keepdims=True), np.float32)

    ours, theirs = a - mean(a), b - mean(b)
    # A copy may be somewhat brighter or of another contrast.
    residual = ours - (mean(ours * theirs) / (mean(theirs**2) + 1)).clip(0.7, 1.4) * theirs
    color_residual = a_chroma - sample(b_chroma, warp, fp.CHROMA_SIDE)[0]
    steep = np.hypot(*np.gradient(a, axis=(1, 2)))
    error = (residual / (LUMA_NOISE + SLACK * steep)) ** 2 + _color_error(a_chroma, color_residual)
    fine = a - blur(a, 3), b - blur(b, 3)
    # 1e-3: a frame without detail correlates with nothing instead of dividing by zero.
    strength = np.sqrt(mean(fine[0] ** 2) * mean(fine[1] ** 2) + 1e-3)
    return Fit(
        warp,
        (mean(fine[0] * fine[1]) / strength).ravel(),
        mean(error / (1 + error)).ravel(),
        inside.mean(axis=(1, 2), dtype=np.float32),
        blur(residual * inside, SOFT_SIGMA)[:, 2::4, 2::4].reshape(-1, 64) / LUMA_NOISE,
        blur(color_residual * inside[:, None, 2::4, 2::4], 0.6).reshape(-1, 128) / CHROMA_NOISE,
    )


def _color_error(a: Floats, residual: Floats) -> Floats:
    """Squared difference of colour in units of noise, on the grid of luma [R, 32, 32]."""
    steep = np.hypot(*np.gradient(a, axis=(2, 3)))
    error = ((residual / (CHROMA_NOISE + SLACK * steep)) ** 2).mean(axis=1)
    step = fp.LUMA_SIDE // fp.CHROMA_SIDE
    return np.repeat(np.repeat(error, step, axis=1), step, axis=2)
