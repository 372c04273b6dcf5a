"""Demonstrated and predicted motion as a picture: a row of three panels for each episode.

Of `ee_delta`: the path from above, the height, the gripper. Each predicted chunk begins where the
arm truly was when it was predicted. Other kinds: three of the numbers over time.
Shapes as in evaluate_motion.py; P points of a line.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from handloom.files import whole
from handloom.train.evaluate.policy_motion import Played
from handloom.train.finetune.space import Space

Points = npt.NDArray[np.float64]
TRUE, PREDICTED = "#333333", "#c4571f"
PANEL, LEFT, CAPTION, BELOW, GAP = 260, 56, 46, 40, 70  # pixels
FINER = 2  # drawn so much larger and then reduced: Pillow's lines are jagged


@dataclass(frozen=True)
class Panel:
    """Lines in one coordinate system."""

    title: str
    true: Points
    """[P, 2]"""
    predicted: Sequence[Points]
    same_scale: bool = False
    """Whether x and y are of one unit."""


def draw(played: Sequence[Played], space: Space, path: Path) -> None:
    """Write a PNG.

    Args:
        played: episodes.
        space: of their actions.
        path: to write, whole or not at all.
    """
    rows = [_motion_panels(one, space) if space.arms else _number_panels(one, space)
            for one in played]  # fmt: skip
    height = CAPTION + PANEL + BELOW
    width = max(map(len, rows)) * (LEFT + PANEL) + GAP
    canvas = Image.new("RGB", (FINER * width, FINER * height * len(rows)), "white")
    pen = ImageDraw.Draw(canvas)
    for r, (one, panels) in enumerate(zip(played, rows, strict=True)):
        caption = f"{one.caption} ({one.clip_id})"
        _text(pen, 12, r * height + 4, textwrap.shorten(caption, width // 8, placeholder=" …"))
        for p, panel in enumerate(panels):
            _draw_panel(pen, panel, LEFT + p * (LEFT + PANEL), r * height + CAPTION)
    canvas = canvas.resize((width, height * len(rows)), Image.Resampling.LANCZOS)
    with whole(path) as temporary:
        canvas.save(temporary, format="PNG")


def _motion_panels(one: Played, space: Space) -> list[Panel]:
    """Of the first arm: path from above and height in millimetres, gripper."""
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


def _number_panels(one: Played, space: Space) -> list[Panel]:
    return [
        Panel(
            f"number {column} of the action over time s",
            _over_time(0, one.true[:, column], space.hz),
            [_over_time(s, chunk[:, column], space.hz) for s, chunk in _until_the_end(one)],
        )
        for column in space.arm_columns[:3]
    ]


def _until_the_end(one: Played) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """The chunks without what they say of the time after the episode."""
    return [(start, chunk[: len(one.true) - start]) for start, chunk in one.chunks]


def _summed(steps: npt.NDArray[np.float32]) -> Points:
    """Where displacements lead, with the start: [P + 1, 3]."""
    return np.concatenate([np.zeros((1, 3)), np.cumsum(steps.astype(np.float64), axis=0)])


def _over_time(start: int, values: npt.NDArray[np.floating], hz: float) -> Points:
    return np.stack([(start + np.arange(len(values))) / hz, values.astype(np.float64)], axis=1)


def _draw_panel(pen: ImageDraw.ImageDraw, panel: Panel, x: int, y: int) -> None:
    points = np.concatenate([panel.true, *panel.predicted])
    low, high = points.min(0), points.max(0)
    span = np.maximum(high - low, 1e-9)
    if panel.same_scale:
        span = np.full(2, span.max())
    middle, span = (low + high) / 2, 1.1 * span

    def page(line: Points) -> list[tuple[float, float]]:
        share = (line - middle) / span + 0.5
        return [(FINER * (x + PANEL * u), FINER * (y + PANEL * (1 - v))) for u, v in share]

    pen.rectangle([FINER * n for n in (x, y, x + PANEL, y + PANEL)], outline="#bbbbbb", width=2)
    pen.line(page(panel.true), fill=TRUE, width=3 * FINER)
    for line in panel.predicted:
        pen.line(page(line), fill=PREDICTED, width=FINER)
        (u, v), r = page(line[:1])[0], 2.5 * FINER
        pen.ellipse((u - r, v - r, u + r, v + r), fill=PREDICTED)
    _text(pen, x, y - 20, panel.title)
    _text(pen, x + PANEL - 130, y + PANEL + 20, "true", TRUE)
    _text(pen, x + PANEL - 90, y + PANEL + 20, "each chunk", PREDICTED)
    for corner, at in ((middle - span / 2, 0), (middle + span / 2, 1)):
        _text(pen, x + at * (PANEL - 34), y + PANEL + 4, f"{corner[0]:.4g}", "#666666")
        _text(pen, x - 46, y + (1 - at) * (PANEL - 14), f"{corner[1]:.3g}", "#666666")


def _text(
    pen: ImageDraw.ImageDraw, x: float, y: float, words: str, colour: str = "#222222"
) -> None:
    pen.text((FINER * x, FINER * y), words, colour, ImageFont.load_default(size=12 * FINER))
