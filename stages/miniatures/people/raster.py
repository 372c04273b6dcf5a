"""Rasterisation of soft shapes by signed distances, lit from the upper left.

Shapes: H height 240, W width 320, 3 channels RGB. Lengths in pixels, x to the right, y down.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 320, 240

Floats = NDArray[np.floating[Any]]  # float32 wherever it is as large as a frame
Frame = NDArray[np.uint8]
Color = tuple[float, float, float]
Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def crop(canvas: Floats, x: float, y: float, box: Box) -> tuple[Floats, Floats, Floats] | None:
    """The part of a canvas in a box around (x, y), and its pixels' offsets from (x, y) in x and y.

    The box is relative to (x, y). None if less than two pixels lie on the canvas.
    """
    x0, x1 = max(0, int(x + box[0])), min(canvas.shape[1], int(x + box[2]) + 2)
    y0, y1 = max(0, int(y + box[1])), min(canvas.shape[0], int(y + box[3]) + 2)
    if x1 - x0 < 2 or y1 - y0 < 2:  # too small for a slope
        return None
    across = (np.arange(x0, x1, dtype=np.float32) - np.float32(x))[None, :]
    down = (np.arange(y0, y1, dtype=np.float32) - np.float32(y))[:, None]
    return canvas[y0:y1, x0:x1], across, down


def blend(patch: Floats, cover: Floats, rgb: Floats | Color) -> None:
    """Draw a colour over a patch with opacity `cover`, clipped to 0 to 1."""
    patch += np.clip(cover, 0, 1)[..., None] * (np.asarray(rgb, np.float32) - patch)


def shade(rgb: Color, light: Floats | float) -> Floats:
    """A colour under `light` of about 0.5 to 1.2: dimmed below 1, whitened above."""
    light = np.asarray(light, np.float32)[..., None]
    dimmed: Floats = np.asarray(rgb, np.float32) * np.minimum(light, 1.0)
    dimmed += np.maximum(light - 1.0, 0.0) * np.float32(190.0)
    return dimmed


def draw_shadow(canvas: Floats, x: float, y: float, wide: float, strength: float) -> None:
    """Darken a soft ellipse of half width `wide`, by up to `strength` (0 to 1)."""
    cropped = crop(canvas, x, y, (-1.6 * wide, -0.62 * wide, 1.6 * wide, 0.62 * wide))
    if cropped is not None:
        patch, across, down = cropped
        far = np.sqrt((across / wide) ** 2 + (down / (0.38 * wide)) ** 2)
        patch *= 1.0 - strength * np.clip(1.5 - far, 0, 1)[..., None]


def rounded_box(u: Floats, v: Floats, wide: float, high: float, radius: float) -> Floats:
    """Signed distance to a box of half sizes `wide` and `high`; negative inside."""
    du, dv = np.abs(u) - (wide - radius), np.abs(v) - (high - radius)
    outside = np.sqrt(np.maximum(du, 0) ** 2 + np.maximum(dv, 0) ** 2)
    return np.asarray(outside + np.minimum(np.maximum(du, dv), 0) - radius, np.float32)


def ellipse(u: Floats, v: Floats, wide: float, high: float) -> Floats:
    """Rough signed distance to an ellipse, good to a pixel near its edge."""
    return np.asarray((np.sqrt((u / wide) ** 2 + (v / high) ** 2) - 1.0) * min(wide, high))
