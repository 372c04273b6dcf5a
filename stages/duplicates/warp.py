"""Laying one small picture over another: the crop and shift that fit best, and what then differs.

Shapes: S pairs of pictures, N pixels a side. A warp is [scale x, shift x, scale y, shift y],
float32: it takes places in the first picture to places in the second, both -1 to 1 edge to edge.
"""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SCALES, SHIFTS = (0.7, 1.4), (-0.4, 0.4)  # beyond these, two pictures share too little
STEP = 0.1  # largest change of a warp in one round
FAR = 5  # pixels that `shifted` looks in each direction
STIFF = 0.02  # keeps directions in which a picture has no texture where they are


def lay_over(first: Floats, second: Floats, warp: Floats, rounds: int) -> Floats:
    """Refine warps until the second pictures fit over the first.

    Gauss-Newton on brightness differences (Lucas and Kanade 1981; Baker and Matthews 2004), with
    gain and offset of brightness as unknowns, and Geman-McClure weights, so that a hand that moved
    does not pull the background along.

    Args:
        first: float32 [S, N, N].
        second: float32 [S, N, N].
        warp: float32 [S, 4], within a few pixels of the right one.
        rounds: how many times to improve it.

    Returns:
        float32 [S, 4].
    """
    side = first.shape[-1]
    target = blurred(first, 1.0)
    soft = blurred(second, 1.0)
    slope_y, slope_x = np.gradient(soft, 2 / side, axis=(1, 2))
    layers = np.stack([soft, slope_x, slope_y], axis=1)
    weight = np.ones_like(target)
    for _ in range(rounds):
        seen, inside = sampled(layers, warp, side)
        change, gain, offset = _solve(target, seen, weight * inside)
        warp = warp + np.clip(change / gain[:, None], -STEP, STEP)
        warp[:, ::2] = warp[:, ::2].clip(*SCALES)
        warp[:, 1::2] = warp[:, 1::2].clip(*SHIFTS)
        wrong = target - gain[:, None, None] * seen[:, 0] - offset[:, None, None]
        usual = 1 + np.median(np.abs(wrong).reshape(len(wrong), -1), axis=1)[:, None, None]
        weight = 1 / (1 + (wrong / (2 * usual)) ** 2) ** 2
    return warp


def _solve(target: Floats, seen: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """One weighted least squares: change of the warp times gain [S, 4], gain [S], offset [S]."""
    count, side = target.shape[:2]
    place = centres(side)
    shade, slope_x, slope_y = seen[:, 0], seen[:, 1], seen[:, 2]
    across, down = slope_x * place, slope_y * place[:, None]
    columns = np.stack([across, slope_x, down, slope_y, shade, np.ones_like(shade)], axis=1)
    columns = columns.reshape(count, 6, -1)
    weighted = columns * weight.reshape(count, 1, -1)
    normal = (weighted @ columns.transpose(0, 2, 1)).astype(np.float64)
    right = (weighted @ target.reshape(count, -1, 1)).astype(np.float64)
    diagonal = np.arange(6)
    normal[:, diagonal[:4], diagonal[:4]] *= 1 + STIFF
    normal[:, diagonal, diagonal] += 1.0
    solved = np.linalg.solve(normal, right)[:, :, 0].astype(np.float32)
    return solved[:, :4], solved[:, 4].clip(0.3, 3.0), solved[:, 5]


def sampled(layers: Floats, warp: Floats, side: int) -> tuple[Floats, Mask]:
    """Layers [S, C, n, n] where the warp takes a grid: [S, C, side, side], and what lies inside."""
    count = layers.shape[-1]
    grid = centres(side)
    x, y = warp[:, :1] * grid + warp[:, 1:2], warp[:, 2:3] * grid + warp[:, 3:4]
    inside = (np.abs(y) < 1)[:, :, None] & (np.abs(x) < 1)[:, None, :]
    # Without rotation, sampling is one matrix for rows and one for columns: faster than gathering.
    rows, columns = (_between((at + 1) * count / 2 - 0.5, count) for at in (y, x))
    seen = rows[:, None] @ layers @ columns.transpose(0, 2, 1)[:, None]
    return np.asarray(seen, np.float32), np.asarray(inside)


def _between(at: Floats, count: int) -> Floats:
    """[S, side, count]: linear interpolation between `count` cells."""
    places = np.arange(count, dtype=np.float32)
    return np.asarray(np.maximum(0, 1 - np.abs(at.clip(0, count - 1)[..., None] - places)))


def centres(side: int) -> Floats:
    """Centres of cells, -1 to 1, float32 [side]."""
    return ((np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1).astype(np.float32)


def blurred(pictures: Floats, sigma: float) -> Floats:
    """Gaussian blur of pictures [..., N, N], sigma in pixels."""
    down = gaussian_filter1d(pictures, sigma, axis=-2, mode="nearest", truncate=3)
    return np.asarray(gaussian_filter1d(down, sigma, axis=-1, mode="nearest", truncate=3))


def halved(pictures: Floats) -> Floats:
    """Half as many pixels a side, [..., N, N] -> [..., N/2, N/2]."""
    rows = pictures[..., ::2, :] + pictures[..., 1::2, :]
    return np.asarray(0.25 * (rows[..., ::2] + rows[..., 1::2]), np.float32)


def shifted(first: Floats, second: Floats, warp: Floats) -> Floats:
    """Warps with the shift, of up to five pixels, under which edges fall together best.

    What a camera moves between two samples is often beyond what `lay_over` finds by itself.
    """
    side = first.shape[-1]
    fade = np.sqrt(np.hanning(side + 2)[1:-1]).astype(np.float32)
    edges = [
        np.fft.rfft2(
            (picture - blurred(picture, 2.5)) * fade * fade[:, None], s=(2 * side, 2 * side)
        )
        for picture in (first, sampled(second[:, None], warp, side)[0][:, 0])
    ]
    match = np.fft.irfft2(np.conj(edges[0]) * edges[1], s=(2 * side, 2 * side))
    steps = np.r_[: FAR + 1, -FAR:0]
    best = match[:, steps][:, :, steps].reshape(len(match), -1).argmax(axis=1)
    moved = warp.copy()
    moved[:, 1] += steps[best % len(steps)] * 2 / side * warp[:, 0]
    moved[:, 3] += steps[best // len(steps)] * 2 / side * warp[:, 2]
    return moved
