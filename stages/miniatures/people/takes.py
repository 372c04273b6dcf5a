"""Takes: short scenes in which hands do given actions one after the other, or without hands."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import numpy as np

from handloom.stages.miniatures.people import scene
from handloom.stages.miniatures.people.cast import ACTION_S, LEAD_S, TAIL_S
from handloom.stages.miniatures.people.motion import VERBS, Action
from handloom.stages.miniatures.people.objects import (
    COLORS,
    COLUMNS,
    KINDS,
    ROWS,
    Thing,
    Things,
    draw_thing,
)
from handloom.stages.miniatures.people.raster import WIDTH, Frame
from handloom.stages.miniatures.people.scene import SKINS, SLEEVES, TABLES, WALLS, Appearance

Acts = Sequence[tuple[str, int]]
Shape = Literal["full", "wide", "tall"]
Happening = Literal["rolls", "falls", "hills", "turns"]

TALL_PX = 180  # width of a 3:4 crop
WIDE_Y = slice(36, 216)  # rows of a 16:9 crop: the far row, and objects lifted in the near one
FALL_PX, FALL_S = 80.0, 0.4  # height and duration of a fall


@dataclass(frozen=True)
class Take:
    """One scene without cuts.

    Attributes:
        show: `hands` that act; or without hands an object that `rolls` or `falls`, `hills` from a
            fixed camera, or hills from one that `turns` right.
        shape: full 4:3 as rendered, wide 16:9 or tall 3:4.
    """

    appearance: Appearance
    things: Things
    actions: tuple[Action, ...]
    seconds: float
    show: Literal["hands"] | Happening = "hands"
    shape: Shape = "full"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the objects in narrations."""
        return tuple(f"{thing.color} {thing.kind}" for thing in self.things)


def render(take: Take, fps: int) -> Iterator[Frame]:
    """All frames of a take, uint8 [240, 320, 3], wide [180, 320, 3] or tall [240, 180, 3]."""
    if take.show == "falls":
        rendered = _render_falling(take, fps)
    elif take.show in ("hills", "turns"):
        rendered = scene.render_landscape(take.appearance, take.seconds, fps)
    else:
        rendered = scene.render(take.appearance, take.things, take.actions, take.seconds, fps)
    for index, frame in enumerate(rendered):
        share = index / (take.seconds * fps) if take.show == "turns" else 0.5
        yield _crop_to_shape(frame, take.shape, share)


def _crop_to_shape(frame: Frame, shape: Shape, share: float) -> Frame:
    """A frame cropped to 16:9, or to 3:4 from the left end (share 0) to the right end (1)."""
    if shape == "wide":
        return np.ascontiguousarray(frame[WIDE_Y])
    if shape == "tall":
        left = round((WIDTH - TALL_PX) * share)
        return np.ascontiguousarray(frame[:, left : left + TALL_PX])
    return frame


def _render_falling(take: Take, fps: int) -> Iterator[Frame]:
    """An empty table onto which the first object falls half-way through."""
    empty = scene.background(take.appearance)
    for thing in take.things[1:]:
        draw_thing(empty, thing)
    for index in range(round(take.seconds * fps)):
        share = min(1.0, (index / fps - take.seconds / 2) / FALL_S)
        canvas = empty.copy()
        if share >= 0:
            draw_thing(canvas, replace(take.things[0], lift=FALL_PX * (1 - share**2)))
        yield np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def empty_take(
    rng: np.random.Generator, show: Happening, seconds: float, shape: Shape = "full"
) -> Take:
    """A take without hands: a ball and a box on the table, or hills."""
    colors = rng.permutation(list(COLORS))
    first = Thing("ball", str(colors[0]), 1.5, 0.0)
    other = Thing("box", str(colors[1]), 3.0, 1.0)
    return Take(_random_appearance(rng), (first, other), (), seconds, show, shape)


def hand_take(
    rng: np.random.Generator,
    acts: Acts,
    kinds: Sequence[str] = tuple(KINDS),
    *,
    action_s: float = ACTION_S,
    shape: Shape = "full",
    pause_s: float = 0.0,
    beside: int = 0,
) -> Take:
    """A take in which hands do `acts`, pairs of a verb and the number of an object, in order.

    The objects stand from left to right in the order of their numbers, where all acts have room;
    their kinds are drawn from `kinds` without repetition. To their right stand `beside` more that
    are not touched. An object whose first act is `put` is held from the first frame on.
    """
    count = max(at for _, at in acts) + 1 + beside
    drawn_kinds = rng.permutation(list(kinds))[:count]
    colors = rng.permutation(list(COLORS))
    places = _places(rng, acts, count, shape)
    things = tuple(
        Thing(str(kind), str(color), *place, lift=_first_lift(acts, at))
        for at, (kind, color, place) in enumerate(zip(drawn_kinds, colors, places, strict=False))
    )
    lead_s = 0.0 if any(thing.lift for thing in things) else min(LEAD_S, action_s / 2)
    actions = tuple(
        Action(verb, at, round(lead_s + index * (action_s + pause_s), 2), action_s)
        for index, (verb, at) in enumerate(acts)
    )
    seconds = round(actions[-1].end_s + min(TAIL_S, action_s / 2), 2)
    appearance = _random_appearance(rng)
    if shape == "tall":  # a second hand would be cut in half
        appearance = replace(appearance, second_hand=False)
    return Take(appearance, things, actions, seconds, shape=shape)


def _random_appearance(rng: np.random.Generator) -> Appearance:
    palettes = (TABLES, WALLS, SKINS, SLEEVES)
    table, wall, skin, sleeve = (int(rng.integers(len(colors))) for colors in palettes)
    return Appearance(
        TABLES[table], WALLS[wall], SKINS[skin], SLEEVES[sleeve],
        second_hand=bool(rng.integers(2)), seed=int(rng.integers(1 << 16)),
    )  # fmt: skip


def _first_lift(acts: Acts, at: int) -> float:
    """Height of an object above the table before its first act, in pixels."""
    verbs = [verb for verb, thing in acts if thing == at]
    return VERBS[verbs[0]].lift[0] if verbs else 0.0


def _places(
    rng: np.random.Generator, acts: Acts, count: int, shape: Shape
) -> list[tuple[float, float]]:
    """Column and row of each object, so that none leaves the table or shares a column."""
    paths = [[VERBS[verb] for verb, thing in acts if thing == at] for at in range(count)]
    across = [_extent(verb.columns for verb in path) for path in paths]
    away = [_extent(verb.rows for verb in path) for path in paths]
    first, end = (1, 3) if shape == "tall" else (0, COLUMNS)  # 3:4 leaves two columns
    rows = 1 if shape == "wide" else ROWS  # 16:9 has no room above the far row
    spare = end - first - sum(high - low + 1 for low, high in across)
    # Sorted, so that free columns only push objects further to the right.
    gaps = np.sort(rng.integers(spare + 1, size=count))
    places, used = [], first
    for (low, high), (near, far), gap in zip(across, away, gaps, strict=True):
        row = -near + int(rng.integers(max(1, rows - (far - near))))
        places.append((float(used + gap - low), float(row)))
        used += high - low + 1
    return places


def _extent(steps: Iterator[int]) -> tuple[int, int]:
    """Lowest and highest place that steps from 0 reach."""
    reached = list(accumulate(steps, initial=0))
    return min(reached), max(reached)


def render_sequence(takes: Sequence[Take], fps: int) -> Iterator[Frame]:
    """Frames of takes of the same shape, one after the other, with cuts between them."""
    for take in takes:
        yield from render(take, fps)
