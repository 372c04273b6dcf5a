"""Objects on the table: their places, kinds and colours, and how each kind is drawn."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from handloom.stages.miniatures.people.raster import (
    Color,
    Floats,
    Point,
    blend,
    crop,
    draw_shadow,
    ellipse,
    rounded_box,
    shade,
)

LEFT_X, COLUMN_PX, COLUMNS = 80.0, 53.0, 4  # where objects stand, from the left
NEAR_Y, ROW_PX, ROWS = 160.0, 42.0, 2  # and from the viewer

COLORS: dict[str, Color] = {
    "red": (206, 48, 44),
    "blue": (46, 92, 196),
    "green": (52, 150, 74),
    "yellow": (238, 196, 54),
    "purple": (134, 72, 168),
    "white": (232, 232, 226),
}


@dataclass(frozen=True)
class Thing:
    """An object: its place on the table in columns and rows, and its height above it."""

    kind: str  # one of KINDS
    color: str  # one of COLORS
    column: float
    row: float
    lift: float = 0.0
    tilt: float = 0.0

    @property
    def base(self) -> Point:
        """Point of the table below the object, in pixels."""
        return LEFT_X + COLUMN_PX * self.column, NEAR_Y - ROW_PX * self.row

    @property
    def scale(self) -> float:
        """Scale of the object: those further away are smaller."""
        return 1.18 * (1.0 - 0.16 * self.row)


Things = tuple[Thing, ...]


def _ball(patch: Floats, u: Floats, v: Floats, rgb: Color) -> None:
    rise = np.sqrt(np.maximum(1 - (u / 20) ** 2 - ((v + 20) / 20) ** 2, 0))
    light = 0.45 + 0.5 * np.maximum(0.65 * rise - 0.4 * u / 20 - 0.6 * (v + 20) / 20, 0)
    light = light + 0.5 * np.clip(1 - np.hypot(u + 7, v + 28) / 6, 0, 1)
    blend(patch, 0.5 - (np.hypot(u, v + 20) - 20), shade(rgb, light))


def _box(patch: Floats, u: Floats, v: Floats, rgb: Color) -> None:
    blend(patch, 0.5 - rounded_box(u + (v + 33) * 0.25, v + 33, 21, 8, 2), shade(rgb, 1.06))
    blend(patch, 0.5 - rounded_box(u, v + 14, 21, 14, 2), shade(rgb, 0.82 - 0.004 * (u + v)))
    blend(patch, 0.35 - 0.5 * rounded_box(u, v + 14, 4, 14, 0), shade(rgb, 0.62))


def _cup(patch: Floats, u: Floats, v: Floats, rgb: Color) -> None:
    ring = np.abs(np.hypot((u - 18) * 0.9, v + 18) - 8.5) - 2.5
    blend(patch, 0.5 - ring, shade(rgb, 0.66))
    taper = 17 + 0.1 * -(v + 18)
    body = rounded_box(u * 17 / taper, v + 18, 17, 18, 5)
    blend(patch, 0.5 - body, shade(rgb, 0.92 - 0.4 * ((u + 5) / 18) ** 2))
    blend(patch, 0.5 - ellipse(u, v + 35, 18.5, 6), shade(rgb, 1.08))
    blend(patch, 0.5 - ellipse(u, v + 34.5, 16, 4.5), shade(rgb, 0.42 + 0.006 * u))


def _plate(patch: Floats, u: Floats, v: Floats, rgb: Color) -> None:
    blend(patch, 0.5 - ellipse(u, v + 10, 25, 11.5), shade(rgb, 0.6))
    blend(patch, 0.5 - ellipse(u, v + 13, 25, 11.5), shade(rgb, 0.96 - 0.003 * (u + v)))
    blend(patch, 0.5 - ellipse(u, v + 12.5, 15.5, 6.5), shade(rgb, 0.78 + 0.004 * u))


def _bottle(patch: Floats, u: Floats, v: Floats, rgb: Color) -> None:
    light = 0.95 - 0.5 * ((u + 3) / 12) ** 2
    blend(patch, 0.5 - rounded_box(u, v + 44, 5, 14, 2), shade(rgb, light))
    blend(patch, 0.5 - rounded_box(u, v + 19, 12.5, 19, 7), shade(rgb, light))
    blend(patch, 0.5 - rounded_box(u, v + 18, 12.5, 7, 0), shade((236, 228, 208), light))
    blend(patch, 0.5 - rounded_box(u, v + 58, 6, 4, 1.5), shade((60, 56, 54), light))


KINDS: dict[str, Callable[[Floats, Floats, Floats, Color], None]] = {
    "ball": _ball,
    "box": _box,
    "cup": _cup,
    "plate": _plate,
    "bottle": _bottle,
}


def draw_thing(canvas: Floats, thing: Thing) -> None:
    """Draw an object and its shadow on a canvas [H, W, 3], 0 to 255."""
    x, y = thing.base
    draw_shadow(canvas, x + 3, y - 2, 24 * thing.scale, 0.42 - 0.005 * thing.lift)
    cropped = crop(canvas, x, y - thing.lift - 22 * thing.scale, (-58, -58, 58, 58))
    if cropped is None:
        return
    patch, across, down = cropped
    cos, sin = math.cos(thing.tilt) / thing.scale, math.sin(thing.tilt) / thing.scale
    # From the picture's axes into those of the tilted object.
    u, v = across * cos + down * sin, down * cos - across * sin
    KINDS[thing.kind](patch, u, v - 22, COLORS[thing.color])
