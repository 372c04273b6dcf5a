"""Rendered scenes: a tabletop as seen by the person whose hand acts on it, and a landscape.

Everything is drawn by signed distances and a light from the upper left, so that no footage of
people is needed. Nothing flickers, and actions stay within the central square.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from handloom.stages.miniatures.people.hand import draw_hand
from handloom.stages.miniatures.people.motion import Action, state_at
from handloom.stages.miniatures.people.objects import Thing, Things, draw_thing
from handloom.stages.miniatures.people.raster import (
    HEIGHT,
    WIDTH,
    Color,
    Floats,
    Frame,
    Point,
    blend,
)

HORIZON = 62
SECOND_REST = (84.0, 199.0)  # where the left hand's grasp lies, pixels

TABLES: tuple[Color, ...] = ((176, 128, 84), (112, 140, 150), (132, 92, 66), (150, 162, 132))
WALLS: tuple[Color, ...] = ((214, 206, 190), (150, 176, 190), (188, 160, 140))
SKINS: tuple[Color, ...] = ((226, 172, 140), (198, 140, 106), (152, 102, 74))
SLEEVES: tuple[Color, ...] = ((70, 88, 120), (150, 60, 62), (84, 110, 84))


@dataclass(frozen=True)
class Appearance:
    """The properties of a scene that stay the same throughout its video."""

    table: Color
    wall: Color
    skin: Color
    sleeve: Color
    second_hand: bool  # the left hand rests on the table
    seed: int  # of the blurred objects at the wall


def background(appearance: Appearance) -> Floats:
    """Table and blurred wall, float32 [H, W, 3], 0 to 255; the same in every frame of a video."""
    rng = np.random.default_rng(appearance.seed)
    image = Image.new("RGB", (WIDTH, HEIGHT), _rgb(appearance.wall))
    draw = ImageDraw.Draw(image)
    for _ in range(7):  # books, jars and a window, far out of focus
        x, wide, high = (int(n) for n in rng.integers((0, 18, 16), (WIDTH, 50, 56)))
        tint = 0.5 * np.asarray(appearance.wall) + 0.5 * rng.integers(40, 250, 3)
        draw.rectangle((x - wide // 2, HORIZON - high, x + wide // 2, HORIZON), fill=_rgb(tint))
    image = image.filter(ImageFilter.GaussianBlur(7))
    canvas = np.asarray(image, np.float32).copy()
    canvas[HORIZON:] = _table(appearance)
    canvas[HORIZON - 2 : HORIZON + 1] *= 0.8
    return canvas


def _rgb(color: Color | Floats) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in color)
    return red, green, blue


def _table(appearance: Appearance) -> Floats:
    """Wooden table with a soft grain that widens towards the viewer, a sheen at the far left."""
    down, across = np.mgrid[0 : HEIGHT - HORIZON, 0:WIDTH].astype(np.float32)
    near = 0.55 + down / (HEIGHT - HORIZON)
    u = (across - WIDTH / 2) / near
    grain = np.sin(u * 0.16 + 1.2 * np.sin(u * 0.05 + down * 0.008) + appearance.seed)
    light = 0.88 + 0.035 * grain + 0.10 * np.exp(-(((across - 90) / 120) ** 2 + (down / 60) ** 2))
    return np.asarray(np.asarray(appearance.table, np.float32) * light[..., None], np.float32)


def render(
    appearance: Appearance, things: Things, actions: tuple[Action, ...], seconds: float, fps: int
) -> Iterator[Frame]:
    """Frames uint8 [H, W, 3] of a video of actions on objects, one after the other.

    Without actions there is no hand, and the first object rolls across the table by itself.
    """
    empty = background(appearance)
    if appearance.second_hand and actions:
        draw_hand(empty, SECOND_REST, 0.2, appearance.skin, appearance.sleeve, mirror=True)
    edges = [0.0, *(a.start_s for a in actions[1:]), seconds]
    moved_things = [a.thing for a in actions] or [0]
    for (first, last), moved in zip(pairwise(edges), moved_things, strict=True):
        still = empty.copy()  # one object moves until the next action: the others are drawn once
        for at, thing in enumerate(state_at(things, actions, first, seconds)[0]):
            if at != moved:
                draw_thing(still, thing)
        for index in range(round(first * fps), round(last * fps)):
            now, hand, grip = state_at(things, actions, index / fps, seconds)
            yield _compose(still, appearance, now[moved], hand, grip)


def _compose(
    still: Floats, appearance: Appearance, thing: Thing, hand: Point | None, grip: float
) -> Frame:
    canvas = still.copy()
    draw_thing(canvas, thing)
    if hand is not None:
        draw_hand(canvas, hand, grip, appearance.skin, appearance.sleeve)
    canvas += 0.5  # astype truncates
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


def render_landscape(appearance: Appearance, seconds: float, fps: int) -> Iterator[Frame]:
    """Frames uint8 [H, W, 3] of hills under drifting clouds, without people."""
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    for index in range(round(seconds * fps)):
        drift = 14.0 * index / fps
        canvas = np.asarray((128, 178, 226), np.float32) + 0.45 * down[..., None]
        for k in range(6):
            x = (67 * k + 31 * appearance.seed + drift) % 420 - 50
            cover = 1.3 - np.hypot((across - x) / (30 + 5 * k), (down - 34 - 11 * (k % 3)) / 11)
            blend(canvas, cover, (250, 250, 250))
        for k, rgb in enumerate(((120, 150, 150), (92, 138, 96), (70, 118, 62))):
            ridge = 120 + 34 * k + 16 * np.sin(across / (52 - 8 * k) + appearance.seed + 2 * k)
            blend(canvas, 0.5 + down - ridge, rgb)
        yield canvas.clip(0, 255).astype(np.uint8)
