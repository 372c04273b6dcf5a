"""Registration of small images: the scale and shift that lay one over another, and sampling by it.

Shapes: S pairs of images, C layers, N pixels a side. A warp is [scale x, shift x, scale y, shift
y], float32: it maps coordinates of the first image to the second, each -1 to 1 from edge to edge.
"""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SCALES, SHIFTS = (0.7, 1.4), (-0.4, 0.4)  # beyond these, two images share too little
MAX_STEP = 0.1  # largest change of a warp in one round; a longer one overshoots
MAX_SHIFT = 5  # pixels that `match_shift` searches in each direction
DAMPING = 0.02  # holds the directions in which an image has no texture (Levenberg-Marquardt)


def refine_warp(first: Floats, second: Floats, warp: Floats, rounds: int) -> Floats:
    """Warps refined until the second images fit over the first.

    Gauss-Newton on brightness differences (Lucas and Kanade 1981; Baker and Matthews 2004), with
    gain and offset of brightness as unknowns, and Geman-McClure weights, so that a hand that moved
    does not pull the background along.

    Args:
        first: float32 [S, N, N].
        second: float32 [S, N, N].
        warp: float32 [S, 4], within a few pixels of the right one.
        rounds: number of Gauss-Newton steps.

    Returns:
        float32 [S, 4].
    """
    side = first.shape[-1]
    target = blur(first, 1.0)
    soft = blur(second, 1.0)
    slope_y, slope_x = np.gradient(soft, 2 / side, axis=(1, 2))
    layers = np.stack([soft, slope_x, slope_y], axis=1)
    weight = np.ones_like(target)
    for _ in range(rounds):
        warped, inside = sample(layers, warp, side)
        step, gain, offset = _solve_step(target, warped, weight * inside)
        warp = warp + np.clip(step / gain[:, None], -MAX_STEP, MAX_STEP)
        warp[:, ::2] = warp[:, ::2].clip(*SCALES)
        warp[:, 1::2] = warp[:, 1::2].clip(*SHIFTS)
        residual = target - gain[:, None, None] * warped[:, 0] - offset[:, None, None]
        scale = 1 + np.median(np.abs(residual).reshape(len(residual), -1), axis=1)[:, None, None]
        weight = 1 / (1 + (residual / (2 * scale)) ** 2) ** 2
    return warp


def _solve_step(target: Floats, warped: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Weighted least squares: step of the warp times gain [S, 4], gain [S], offset [S]."""
    count, side = target.shape[:2]
    place = cell_centres(side)
    shade, slope_x, slope_y = warped[:, 0], warped[:, 1], warped[:, 2]
    across, down = slope_x * place, slope_y * place[:, None]
    columns = np.stack([across, slope_x, down, slope_y, shade, np.ones_like(shade)], axis=1)
    columns = columns.reshape(count, 6, -1)
    weighted = columns * weight.reshape(count, 1, -1)
    normal = (weighted @ columns.transpose(0, 2, 1)).astype(np.float64)
    right = (weighted @ target.reshape(count, -1, 1)).astype(np.float64)
    diagonal = np.arange(6)
    normal[:, diagonal[:4], diagonal[:4]] *= 1 + DAMPING
    normal[:, diagonal, diagonal] += 1.0  # an image without any texture stays solvable
    solved = np.linalg.solve(normal, right)[:, :, 0].astype(np.float32)
    return solved[:, :4], solved[:, 4].clip(0.3, 3.0), solved[:, 5]


def sample(layers: Floats, warp: Floats, side: int) -> tuple[Floats, Mask]:
    """Values of layers [S, C, N, N] on a warped grid.

    Returns:
        float32 [S, C, side, side], and bool [S, side, side]: True where the grid lies inside.
    """
    count = layers.shape[-1]
    grid = cell_centres(side)
    x, y = warp[:, :1] * grid + warp[:, 1:2], warp[:, 2:3] * grid + warp[:, 3:4]
    inside = (np.abs(y) < 1)[:, :, None] & (np.abs(x) < 1)[:, None, :]
    # Without rotation, sampling is one matrix for rows and one for columns: faster than gathering.
    rows, columns = (_interpolation((at + 1) * count / 2 - 0.5, count) for at in (y, x))
    values = rows[:, None] @ layers @ columns.transpose(0, 2, 1)[:, None]
    return np.asarray(values, np.float32), np.asarray(inside)


def _interpolation(at: Floats, count: int) -> Floats:
    """Matrices [S, side, count] that interpolate linearly between `count` cells."""
    places = np.arange(count, dtype=np.float32)
    return np.asarray(np.maximum(0, 1 - np.abs(at.clip(0, count - 1)[..., None] - places)))


def cell_centres(side: int) -> Floats:
    """Coordinates of the centres of cells, -1 to 1, float32 [side]."""
    return ((np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1).astype(np.float32)


def blur(pictures: Floats, sigma: float) -> Floats:
    """Images [..., N, N] after a Gaussian blur, sigma in pixels."""
    down = gaussian_filter1d(pictures, sigma, axis=-2, mode="nearest", truncate=3)
    return np.asarray(gaussian_filter1d(down, sigma, axis=-1, mode="nearest", truncate=3))


def downsample(pictures: Floats) -> Floats:
    """Images [..., N, N] at half the size, [..., N/2, N/2]."""
    rows = pictures[..., ::2, :] + pictures[..., 1::2, :]
    return np.asarray(0.25 * (rows[..., ::2] + rows[..., 1::2]), np.float32)


def match_shift(first: Floats, second: Floats, warp: Floats) -> Floats:
    """Warps moved by the shift of up to five pixels at which edges correlate best.

    A camera often moves further between two samples than `refine_warp` can follow by itself.
    """
    side = first.shape[-1]
    fade = np.sqrt(np.hanning(side + 2)[1:-1]).astype(np.float32)
    edges = [
        np.fft.rfft2((picture - blur(picture, 2.5)) * fade * fade[:, None], s=(2 * side, 2 * side))
        for picture in (first, sample(second[:, None], warp, side)[0][:, 0])
    ]
    # Padded to twice the side, so that the correlation does not wrap around.
    correlation = np.fft.irfft2(np.conj(edges[0]) * edges[1], s=(2 * side, 2 * side))
    steps = np.r_[: MAX_SHIFT + 1, -MAX_SHIFT:0]
    best = correlation[:, steps][:, :, steps].reshape(len(correlation), -1).argmax(axis=1)
    shifted = warp.copy()
    shifted[:, 1] += steps[best % len(steps)] * 2 / side * warp[:, 0]
    shifted[:, 3] += steps[best // len(steps)] * 2 / side * warp[:, 2]
    return shifted
