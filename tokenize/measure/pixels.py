"""PSNR and SSIM: distances of two pictures from their pixels alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_DB = 100.0  # of pictures that hardly differ, or not at all
SSIM_TAPS, SSIM_SIGMA = 11, 1.5

Distance = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]  # of two pictures [H, W, 3]


def psnr_db(a: NDArray[Any], b: NDArray[Any]) -> float:
    """10 log10(255^2 / mean squared error) over all pixels and channels, at most 100 dB.

    Args:
        a: [..., H, W, 3], values 0 to 255. Of several frames the error is averaged, not the ratio:
            one black video would rule a mean of ratios.
        b: the same shape.
    """
    difference = a.astype(np.float32) - b.astype(np.float32)  # exact for whole numbers
    return decibels(float(np.mean(np.square(difference), dtype=np.float64)))


def decibels(error: float) -> float:
    """PSNR of a mean squared error of values 0 to 255, at most 100 dB."""
    return min(MOST_DB, 10 * float(np.log10(255.0**2 / error))) if error else MOST_DB


def ssim(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Structural similarity, mean over places and channels.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004),
    eq. 13 with the paper's Gaussian window of 11 x 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03,
    L = 255, at places where the window lies inside the picture.

    Args:
        a: [H, W, 3], values 0 to 255, at least 11 pixels each way.
        b: the same shape.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _window(x), _window(y)
    var_x, var_y = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float(np.mean(top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))


def _window(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.ndimage import correlate1d

    at = np.arange(SSIM_TAPS) - SSIM_TAPS // 2
    taps = np.exp(-(at**2) / (2 * SSIM_SIGMA**2))
    taps /= taps.sum()
    rows = correlate1d(picture, taps, axis=0)[SSIM_TAPS // 2 : -(SSIM_TAPS // 2)]
    means: NDArray[np.float64] = correlate1d(rows, taps, axis=1)
    return means[:, SSIM_TAPS // 2 : -(SSIM_TAPS // 2)]
