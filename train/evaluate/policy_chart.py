"""Demonstrated and predicted motion as a picture: a row of three panels for each episode.

`ee_delta` shows the path from above, the height and the gripper; each predicted chunk begins where
the arm truly was when it was predicted. Other kinds show three of the numbers over time.
Shapes as in policy_motion.py; P points of a line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom import svg
from handloom.train.evaluate.policy_motion import PlayedEpisode
from handloom.train.finetune.space import Space

Points = npt.NDArray[np.float64]
TRUE, PREDICTED = "#333", "#c4571f"
PANEL, LEFT, CAPTION, BELOW = 260, 56, 50, 60  # pixels


@dataclass(frozen=True)
class Panel:
    """Lines in one coordinate system."""

    title: str
    true: Points
    """[P, 2]"""
    predicted: Sequence[Points]
    same_scale: bool = False
    """x and y are of one unit."""


def draw(played: Sequence[PlayedEpisode], space: Space) -> str:
    """An SVG file.

    Args:
        played: episodes.
        space: of their actions.
    """
    rows = [_motion_panels(one, space) if space.arms else _number_panels(one, space)
            for one in played]  # fmt: skip
    height = CAPTION + PANEL + BELOW
    parts = []
    for r, (one, panels) in enumerate(zip(played, rows, strict=True)):
        parts.append(svg.text(12, r * height + 18, f"{one.caption} ({one.clip_id})"))
        for p, panel in enumerate(panels):
            parts += _drawn(panel, LEFT + p * (LEFT + PANEL), r * height + CAPTION)
    return svg.drawing(max(map(len, rows)) * (LEFT + PANEL) + 20, height * len(rows), parts, True)


def _motion_panels(one: PlayedEpisode, space: Space) -> list[Panel]:
    """Panels of the first arm: path from above and height in millimetres, gripper."""
    place = 1000 * _summed(one.true[:, :3])
    chunks = _until_the_end(one)
    paths = [(s, place[s] + 1000 * _summed(chunk[:, :3])) for s, chunk in chunks]
    over = [_over_time(s, path[:, 2], space.hz) for s, path in paths]
    hands = [_over_time(s, chunk[:, 6], space.hz) for s, chunk in chunks]
    hand = _over_time(0, one.true[:, 6], space.hz)
    return [
        Panel("path from above, x and y, mm", place[:, :2], [p[:, :2] for _, p in paths], True),
        Panel("height mm over time s", _over_time(0, place[:, 2], space.hz), over),
        Panel("gripper (1 open) over time s", hand, hands),
    ]


def _number_panels(one: PlayedEpisode, space: Space) -> list[Panel]:
    return [
        Panel(
            f"number {column} of the action over time s",
            _over_time(0, one.true[:, column], space.hz),
            [_over_time(s, chunk[:, column], space.hz) for s, chunk in _until_the_end(one)],
        )
        for column in space.arm_columns[:3]
    ]


def _until_the_end(one: PlayedEpisode) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """The chunks without what they say of the time after the episode."""
    return [(start, chunk[: len(one.true) - start]) for start, chunk in one.chunks]


def _summed(steps: npt.NDArray[np.float32]) -> Points:
    """The path of some displacements, with its start: [P + 1, 3]."""
    return np.concatenate([np.zeros((1, 3)), np.cumsum(steps.astype(np.float64), axis=0)])


def _over_time(start: int, values: npt.NDArray[np.floating], hz: float) -> Points:
    return np.stack([(start + np.arange(len(values))) / hz, values.astype(np.float64)], axis=1)


def _drawn(panel: Panel, x: int, y: int) -> list[str]:
    points = np.concatenate([panel.true, *panel.predicted])
    low, high = points.min(0), points.max(0)
    span = np.maximum(high - low, 1e-9)
    if panel.same_scale:
        span = np.full(2, span.max())
    (left, lower), (right, upper) = (low + high) / 2 - 0.55 * span, (low + high) / 2 + 0.55 * span
    axes = svg.Axes(x, y, PANEL, PANEL, (left, right), (lower, upper))
    parts = [*axes.box(panel.title, ""), *axes.grid(), *axes.numbers()]
    parts.append(axes.line(panel.true, TRUE, width=3))
    for line in panel.predicted:
        parts += [axes.line(line, PREDICTED, width=1.2), axes.dot(line[0], PREDICTED)]
    keys = (("true", TRUE), ("each chunk", PREDICTED))
    parts += [svg.key(x + 80 * i, axes.bottom + 38, *key) for i, key in enumerate(keys)]
    return parts
