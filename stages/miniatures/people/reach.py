"""A hand that reaches for one of three blocks on a table and touches it, as its owner sees it.

Blocks, hand, table and light differ from scene to scene; what the hand does depends on the scene
and on which block it is to touch. Lengths in pixels, x to the right, y down; times in seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from handloom.stages.miniatures.people import scene
from handloom.stages.miniatures.people.hand import draw_hand
from handloom.stages.miniatures.people.raster import (
    Color,
    Floats,
    Frame,
    Point,
    blend,
    crop,
    draw_shadow,
    rounded_box,
    shade,
)

BLOCKS: dict[str, Color] = {"red": (206, 48, 44), "blue": (46, 92, 196), "pink": (236, 132, 176)}
LEFT, RIGHT, FAR, NEAR = 70.0, 250.0, 92.0, 182.0  # where blocks stand
APART = 40.0
EDGE = 13.0  # half the width of a block in front
HAND = 0.8  # of the size of the other miniatures' hands
HOLD_S, TOUCH_S = 0.3, 0.6  # before and after the way


@dataclass(frozen=True)
class Reach:
    """One video.

    Attributes:
        places: of the red, blue and pink block.
        tint: factors of the blocks' red, green and blue.
        target: number of the block to touch.
        rest: place of the hand's grasp at first.
        way_s: duration of the way to the block.
    """

    appearance: scene.Appearance
    places: tuple[Point, ...]
    tint: Color
    target: int
    rest: Point
    way_s: float

    @property
    def color(self) -> str:
        """Name of the colour of the block that is touched."""
        return list(BLOCKS)[self.target]

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return HOLD_S + self.way_s + TOUCH_S


def random_reach(rng: np.random.Generator, target: int) -> Reach:
    """A random scene in which a block is touched; the scene does not depend on the block."""
    table, wall, skin, sleeve = (
        palette[int(rng.integers(len(palette)))]
        for palette in (scene.TABLES, scene.WALLS, scene.SKINS, scene.SLEEVES)
    )
    background_seed = int(rng.integers(1 << 16))
    appearance = scene.Appearance(table, wall, skin, sleeve, False, background_seed)
    red, green, blue = rng.uniform(0.85, 1.1, 3).tolist()
    rest = float(160 + rng.uniform(-60, 60)), float(200 + rng.uniform(-15, 25))
    way_s = float(rng.uniform(0.7, 1.3))
    return Reach(appearance, _places(rng), (red, green, blue), target, rest, way_s)


def _places(rng: np.random.Generator) -> tuple[Point, ...]:
    while True:
        places = rng.uniform((LEFT, FAR), (RIGHT, NEAR), (3, 2))
        # The table is seen at a slant: twice as far as it looks.
        gaps = [
            np.hypot(*((places[i] - places[j]) * (1, 1.6))) for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        if min(gaps) > APART:
            return tuple((float(x), float(y)) for x, y in places)


def render(reach: Reach, fps: int) -> Iterator[Frame]:
    """All frames of a video, uint8 [240, 320, 3]."""
    empty = scene.background(reach.appearance)
    for number in sorted(range(3), key=lambda one: reach.places[one][1]):  # from far to near
        color = np.array(list(BLOCKS.values())[number]) * reach.tint
        red, green, blue = np.clip(color, 0, 255).tolist()
        _draw_block(empty, reach.places[number], (red, green, blue))
    for index in range(round(reach.seconds * fps)):
        canvas = empty.copy()
        grasp, look = _grasp(reach, index / fps), reach.appearance
        draw_hand(canvas, grasp, 0.6, look.skin, look.sleeve, size=HAND)
        canvas += 0.5  # astype truncates
        yield np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


def _grasp(reach: Reach, at_s: float) -> Point:
    """Place of the hand's grasp at a time: from rest onto the block, eased in and out."""
    (x, y), (to_x, to_y) = reach.rest, reach.places[reach.target]
    share = min(1.0, max(0.0, (at_s - HOLD_S) / reach.way_s))
    share = share * share * (3 - 2 * share)
    return x + (to_x + 2 - x) * share, y + (to_y - 18 - y) * share


def _draw_block(canvas: Floats, place: Point, color: Color) -> None:
    x, y = place
    size = EDGE * (0.85 + 0.15 * (y - FAR) / (NEAR - FAR))
    draw_shadow(canvas, x + 3, y, 1.1 * size, 0.35)
    cropped = crop(canvas, x, y, (-2.2 * size, -2.8 * size, 2.2 * size, 1.2 * size))
    if cropped is None:
        return
    patch, across, down = cropped
    front = rounded_box(across, down + 0.5 * size, size, 0.8 * size, 2)
    blend(patch, 0.5 - front, shade(color, 0.72))
    top = rounded_box(across, down + 1.3 * size, size, 0.55 * size, 2)
    blend(patch, 0.5 - top, shade(color, 1.0))
