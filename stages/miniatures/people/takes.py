"""Short scenes to order: hands that do given things one after the other, or nobody at all."""

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
from handloom.stages.miniatures.people.scene import (
    SKINS,
    SLEEVES,
    TABLES,
    WALLS,
    Look,
)

Acts = Sequence[tuple[str, int]]
Shape = Literal["full", "wide", "tall"]
Happening = Literal["rolls", "falls", "hills", "turns"]

TALL_PX = 180  # width of what 3:4 cuts out
WIDE_Y = slice(36, 216)  # what 16:9 cuts out: the far row, and what is lifted in the near one
FALL_PX, FALL_S = 80.0, 0.4  # how far a thing falls, and how long it takes


@dataclass(frozen=True)
class Take:
    """One scene without cuts.

    Attributes:
        show: `hands` act, or nobody is there and something `rolls` or `falls`, or `hills` are seen
            from where one stands, or by a camera that `turns` right.
        shape: the rendered 4:3, or 16:9, or 3:4.
    """

    look: Look
    things: Things
    actions: tuple[Action, ...]
    seconds: float
    show: Literal["hands"] | Happening = "hands"
    shape: Shape = "full"

    @property
    def names(self) -> tuple[str, ...]:
        """What a person would call the things."""
        return tuple(f"{thing.color} {thing.kind}" for thing in self.things)


def frames(take: Take, fps: int) -> Iterator[Frame]:
    """All frames of a take, uint8 [240, 320, 3], wide [180, 320, 3] or tall [240, 180, 3]."""
    if take.show == "falls":
        drawn = _falling(take, fps)
    elif take.show in ("hills", "turns"):
        drawn = scene.landscape(take.look, take.seconds, fps)
    else:
        drawn = scene.frames(take.look, take.things, take.actions, take.seconds, fps)
    for index, frame in enumerate(drawn):
        share = index / (take.seconds * fps) if take.show == "turns" else 0.5
        yield _shaped(frame, take.shape, share)


def _shaped(frame: Frame, shape: Shape, share: float) -> Frame:
    """Cut out 16:9, or 3:4 at the left end (share 0), in the middle or at the right end."""
    if shape == "wide":
        return np.ascontiguousarray(frame[WIDE_Y])
    if shape == "tall":
        left = round((WIDTH - TALL_PX) * share)
        return np.ascontiguousarray(frame[:, left : left + TALL_PX])
    return frame


def _falling(take: Take, fps: int) -> Iterator[Frame]:
    """An empty table onto which, half-way through, the first thing falls out of nowhere."""
    empty = scene.background(take.look)
    for thing in take.things[1:]:
        draw_thing(empty, thing)
    for index in range(round(take.seconds * fps)):
        share = min(1.0, (index / fps - take.seconds / 2) / FALL_S)
        canvas = empty.copy()
        if share >= 0:
            draw_thing(canvas, replace(take.things[0], lift=FALL_PX * (1 - share**2)))
        yield np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def nobody(
    rng: np.random.Generator,
    show: Happening,
    seconds: float,
    shape: Shape = "full",
) -> Take:
    """A take without hands; a ball and a box are on the table, or hills far away."""
    colors = rng.permutation(list(COLORS))
    first = Thing("ball", str(colors[0]), 1.5, 0.0)
    other = Thing("box", str(colors[1]), 3.0, 1.0)
    return Take(_look(rng), (first, other), (), seconds, show, shape)


def hands(
    rng: np.random.Generator,
    acts: Acts,
    kinds: Sequence[str] = tuple(KINDS),
    *,
    action_s: float = ACTION_S,
    shape: Shape = "full",
    pause_s: float = 0.0,
    beside: int = 0,
) -> Take:
    """A take in which hands do `acts`, (verb, number of the thing), one after the other.

    The things stand from left to right in the order of their numbers, where all acts have room;
    their kinds are drawn from `kinds` without repetition. To the right of them stand `beside` more
    that nobody touches. What is put down first is held from the first frame on.
    """
    count = max(at for _, at in acts) + 1 + beside
    drawn = rng.permutation(list(kinds))[:count]
    colors = rng.permutation(list(COLORS))
    places = _places(rng, acts, count, shape)
    things = tuple(
        Thing(str(kind), str(color), *place, lift=_first_lift(acts, at))
        for at, (kind, color, place) in enumerate(zip(drawn, colors, places, strict=False))
    )
    lead_s = 0.0 if any(thing.lift for thing in things) else min(LEAD_S, action_s / 2)
    actions = tuple(
        Action(verb, at, round(lead_s + index * (action_s + pause_s), 2), action_s)
        for index, (verb, at) in enumerate(acts)
    )
    seconds = round(actions[-1].end_s + min(TAIL_S, action_s / 2), 2)
    look = _look(rng)
    if shape == "tall":  # would be cut in half
        look = replace(look, second_hand=False)
    return Take(look, things, actions, seconds, shape=shape)


def _look(rng: np.random.Generator) -> Look:
    palettes = (TABLES, WALLS, SKINS, SLEEVES)
    table, wall, skin, sleeve = (int(rng.integers(len(colors))) for colors in palettes)
    return Look(
        TABLES[table], WALLS[wall], SKINS[skin], SLEEVES[sleeve],
        second_hand=bool(rng.integers(2)), seed=int(rng.integers(1 << 16)),
    )  # fmt: skip


def _first_lift(acts: Acts, at: int) -> float:
    """How far above the table a thing is before anything is done to it, in pixels."""
    verbs = [verb for verb, thing in acts if thing == at]
    return VERBS[verbs[0]].lift[0] if verbs else 0.0


def _places(
    rng: np.random.Generator, acts: Acts, count: int, shape: Shape
) -> list[tuple[float, float]]:
    """Column and row of each thing, so that none leaves the table or enters another's columns."""
    paths = [[VERBS[verb] for verb, thing in acts if thing == at] for at in range(count)]
    across = [_extent(verb.columns for verb in path) for path in paths]
    away = [_extent(verb.rows for verb in path) for path in paths]
    first, end = (1, 3) if shape == "tall" else (0, COLUMNS)  # 3:4 leaves two columns
    rows = 1 if shape == "wide" else ROWS  # 16:9 has no room above the far row
    spare = end - first - sum(high - low + 1 for low, high in across)
    gaps = np.sort(rng.integers(spare + 1, size=count))
    places, used = [], first
    for (low, high), (near, far), gap in zip(across, away, gaps, strict=True):
        row = -near + int(rng.integers(max(1, rows - (far - near))))
        places.append((float(used + gap - low), float(row)))
        used += high - low + 1
    return places


def _extent(steps: Iterator[int]) -> tuple[int, int]:
    """Lowest and highest of the places that steps from 0 lead to."""
    reached = list(accumulate(steps, initial=0))
    return min(reached), max(reached)


def filmed(takes: Sequence[Take], fps: int) -> Iterator[Frame]:
    """Takes of the same shape, one after the other, with cuts between them."""
    for take in takes:
        yield from frames(take, fps)
