"""Fingerprints of decoded frames: small images from which copies are found without decoding again.

A fingerprint is 32x32 luma, then 8x8 blue and 8x8 red difference, 1,152 bytes. Keys and comparisons
are computed from it, so that a better search needs no second pass over the media.

Shapes: F frames, K bytes of a fingerprint, V views, N coefficients, B keys of a view.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

LUMA_SIDE = 32
CHROMA_SIDE = 8
BYTES = LUMA_SIDE**2 + 2 * CHROMA_SIDE**2
Fingerprints = npt.NDArray[np.uint8]  # [F, K]

# Letterbox bars are rows or columns this dark throughout, equally wide on both sides. Video black
# is 16 of 255 when a range flag was lost; a dark room's sensor noise lies above.
BAR_LEVEL = 24
CHUNK = 128  # frames transformed at a time, which fit into caches
FLAT_LEVELS = 4.0  # standard deviation of luma below which a frame resembles any other


@dataclass(frozen=True)
class View:
    """A part of a frame that a copy may be a crop of, in shares of width and height."""

    mirror: bool
    left: float
    top: float
    size: float


def _views() -> tuple[View, ...]:
    places = [(0.0, 0.0, 1.0), (0.1, 0.1, 0.8)]
    places += [(x, y, 0.9) for x, y in ((0.05, 0.05), (0, 0), (0.1, 0), (0, 0.1), (0.1, 0.1))]
    return tuple(View(mirror, *place) for mirror in (False, True) for place in places)


VIEWS = _views()
FREQUENCY_SIDE = 8  # frequencies used in each direction
# Lowest first: they survive cropping and half a second of motion best.
FREQUENCIES = sorted(
    ((u, v) for u in range(FREQUENCY_SIDE) for v in range(FREQUENCY_SIDE) if u + v),
    key=lambda f: (f[0] ** 2 + f[1] ** 2, f),
)
_PLAIN = [view for view in VIEWS if not view.mirror]  # the first half; the rest are mirrored
# Starts and sizes of the views in either direction; the whole width first.
_STRETCHES = sorted(
    {(start, view.size) for view in VIEWS for start in (view.left, view.top)},
    key=lambda stretch: (-stretch[1], stretch),
)
FALL_OFF = 1.2  # amplitudes fall with this power of frequency: fitted on 46 real videos
KEYED = 24  # lowest coefficients that keys are made of
PEAKS = 6  # strongest of them
DROPPED = 1  # peaks that a key leaves out: two frames may disagree on as many


def fingerprint(frame_hwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The fingerprint of a frame, black bars cut off and the rest squeezed to a square.

    Args:
        frame_hwc: uint8 [H, W, 3] RGB, any size.

    Returns:
        uint8 [1152]: luma [32, 32], then Cb and Cr [8, 8] around 128 (ITU-R BT.601, full range).
    """
    import cv2

    picture_hwc, side = _without_bars(frame_hwc), (LUMA_SIDE, LUMA_SIDE)
    small = cv2.resize(picture_hwc, side, interpolation=cv2.INTER_AREA)  # means over cells
    luma, red, blue = np.moveaxis(cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb), 2, 0)
    return np.concatenate([luma.ravel(), _block_means(blue), _block_means(red)])


def _without_bars(frame_hwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    # Every eighth pixel of a line decides: a bar is black all along, a picture hardly ever is.
    top, bottom = _bars(frame_hwc[:, ::8].reshape(len(frame_hwc), -1).max(axis=1))
    left, right = _bars(frame_hwc[::8].max(axis=0).max(axis=1))
    return np.ascontiguousarray(frame_hwc[top:bottom, left:right])


def _bars(brightest: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """First and last line between two bars of equal width, which cover less than half."""
    lit, lines = np.flatnonzero(brightest >= BAR_LEVEL), len(brightest)
    width = int(min(lit[0], lines - 1 - lit[-1])) if len(lit) else 0
    width = width if 4 * width < lines else 0
    return width, lines - width


def _block_means(plane: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    step = LUMA_SIDE // CHROMA_SIDE
    blocks = plane.reshape(CHROMA_SIDE, step, CHROMA_SIDE, step).mean(axis=(1, 3))
    return np.asarray(np.rint(blocks), np.uint8).ravel()


def luma(fingerprints: Fingerprints) -> npt.NDArray[np.float32]:
    """Luma planes, float32 [F, 32, 32], 0 to 255."""
    return fingerprints[:, : LUMA_SIDE**2].reshape(-1, LUMA_SIDE, LUMA_SIDE).astype(np.float32)


def chroma(fingerprints: Fingerprints) -> npt.NDArray[np.float32]:
    """Blue and red difference planes, float32 [F, 2, 8, 8], -128 to 127."""
    planes = fingerprints[:, LUMA_SIDE**2 :].reshape(-1, 2, CHROMA_SIDE, CHROMA_SIDE)
    return planes.astype(np.float32) - 128


def is_flat(fingerprints: Fingerprints) -> npt.NDArray[np.bool_]:
    """Whether frames are too plain (black, white, a wall) to be told apart, bool [F]."""
    return np.asarray(luma(fingerprints).std(axis=(1, 2)) < FLAT_LEVELS)


def spectra(fingerprints: Fingerprints, views: int) -> npt.NDArray[np.float32]:
    """Low frequencies of each frame's first views, float32 [F, V, N], about equally strong.

    The same bits for a frame whatever others are given with it: weights and luma are whole numbers,
    whose products and sums float64 holds exactly, in whatever order a matrix product takes them.
    """
    parts = [
        _spectra(fingerprints[i : i + CHUNK], views) for i in range(0, len(fingerprints), CHUNK)
    ]
    return np.concatenate([np.empty((0, views, len(FREQUENCIES)), np.float32), *parts])


def _spectra(fingerprints: Fingerprints, views: int) -> npt.NDArray[np.float32]:
    count, width = len(fingerprints), FREQUENCY_SIDE * (1 if views == 1 else len(_STRETCHES))
    across = _stretches()[:width]
    lines = luma(fingerprints).astype(np.float64).reshape(-1, LUMA_SIDE) @ across.T
    waves = (across @ lines.reshape(count, LUMA_SIDE, width)).reshape(count, -1)
    place, factors = _places(width)
    plain = min(views, len(_PLAIN))
    found = (
        waves.take(place[: plain * len(FREQUENCIES)], axis=1).reshape(count, plain, -1) * factors
    )
    found = found.astype(np.float32)
    return np.concatenate([found, found[:, : views - plain] * _mirror_signs()], axis=1)


@cache
def _stretches() -> npt.NDArray[np.float64]:
    """Cosine transforms of all stretches, in whole numbers, [X * 8, 32]."""
    transforms = np.concatenate([_cosines(*stretch) for stretch in _STRETCHES])
    return np.asarray(np.rint(transforms * 2**16))  # 255 * 32 * 2**16 * 32 * 2**16 is below 2**53


@cache
def _places(width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Places of the views' waves in a transform [width * width], and factors that equalise [N]."""
    side, places = FREQUENCY_SIDE, []
    for view in _PLAIN if width > side else _PLAIN[:1]:
        x, y = (_STRETCHES.index((start, view.size)) for start in (view.left, view.top))
        places += [(y * side + v) * width + x * side + u for u, v in FREQUENCIES]
    return np.array(places), np.array([np.hypot(u, v) ** FALL_OFF for u, v in FREQUENCIES]) / 2**32


@cache
def _mirror_signs() -> npt.NDArray[np.float32]:
    """What mirroring a frame makes of its waves, -1 or 1 [N]."""
    return np.array([(-1) ** u for u, _ in FREQUENCIES], np.float32)


def _cosines(start: float, size: float) -> npt.NDArray[np.float64]:
    """Cosine transform [8, 32] of the stretch from `start`, `size` wide (shares), of 32 cells."""
    # The stretch is brought to 16 cells first, by the share of each cell that it covers.
    edges = LUMA_SIDE * (start + size * np.arange(17) / 16)
    cell = np.arange(LUMA_SIDE)
    cover = np.minimum(edges[1:, None], cell + 1) - np.maximum(edges[:-1, None], cell)
    waves = np.cos(np.pi * np.outer(np.arange(FREQUENCY_SIDE), np.arange(16) + 0.5) / 16)
    return np.asarray(waves @ (cover.clip(0) / np.diff(edges)[:, None]))


def band_keys(spectra_fvn: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Index keys of views, int64 [..., B]; views of the same scene share at least one.

    A key packs the strongest low frequencies with their signs, each left out in turn. Signs of a
    fixed set would depend on coefficients near zero, which flip with the smallest crop.
    """
    keyed = spectra_fvn[..., :KEYED]
    peaks = np.argsort(-np.abs(keyed), axis=-1, kind="stable")[..., :PEAKS]
    signs = np.take_along_axis(keyed, peaks, axis=-1) > 0
    # Six bits a peak: 2 * number + sign + 1 is below 64. Sorted, so that the order does not count.
    codes = np.sort(2 * peaks + signs + 1, axis=-1)
    keys = [
        sum(codes[..., at] << (6 * place) for place, at in enumerate(chosen))
        for chosen in combinations(range(PEAKS), PEAKS - DROPPED)
    ]
    return np.stack(keys, axis=-1).astype(np.int64)


def signatures(spectra_fvn: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Signs of all frequencies as bits, uint64 [...]; unrelated views differ in about half."""
    return _packed(spectra_fvn > 0)


def strong(spectra_fvn: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Bits of the frequencies that are stronger than the mean of their view, uint64 [...]."""
    size = np.abs(spectra_fvn)
    return _packed(size > size.mean(axis=-1, keepdims=True))


def _packed(bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Bits [..., N] of the frequencies as numbers, the lowest frequency first, uint64 [...]."""
    padded = np.zeros((*bits.shape[:-1], 64), bool)
    padded[..., 64 - len(FREQUENCIES) :] = bits
    return np.packbits(padded, axis=-1).view(">u8")[..., 0].astype(np.uint64)
