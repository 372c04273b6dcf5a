"""The report's cards of robot episodes: every camera, and curves of states and actions."""

import html
from collections.abc import Iterator, Sequence

import numpy as np

from handloom import svg
from handloom.errors import MediaError
from handloom.stages.episodes.rows import EpisodeRow
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.report import strip
from handloom.stages.report.pictures import Pictures
from handloom.stages.tables.rows import Clip, EpisodePlace

MOMENTS = 4  # pictures of each camera, from the first step to the last
WIDTH, HEIGHT, LEFT = 300, 70, 44  # pixels of a chart and of its numbers
CURVES = 16  # of a chart at most: two arms


def card(pictures: Pictures, clip: Clip, text: str, note: str) -> str:
    """A figure of an episode, with the anchor that links to it lead to."""
    row = pictures.row("episodes", EpisodeRow, clip)
    charts = _chart("state", row.state, row.hz) + _chart("action", row.action, row.hz)
    drawn = [*_cameras(pictures, clip), f"<div class=charts>{charts}</div>"]
    words = html.escape(f"{note} · {clip.video_id}")
    link = svg.anchor(clip.clip_id, clip.clip_id)
    return (
        f'<figure class=wide id="{html.escape(clip.clip_id)}">{"".join(drawn)}'
        f"<figcaption>{html.escape(text)}<br><small>{words} · {link}</small></figcaption></figure>"
    )


def _cameras(pictures: Pictures, clip: Clip) -> Iterator[str]:
    """A strip of each camera: the same steps in all, so that they can be compared."""
    assert isinstance(pictures.ingest, EpisodeIngest)
    place = pictures.row("ingest", EpisodePlace, clip)
    try:
        for name, view in pictures.ingest.pictures.views(place).items():
            steps = np.linspace(0, len(view) - 1, min(MOMENTS, len(view))).round().astype(int)
            frames = [np.asarray(strip.shrunk(view[int(step)], strip.TILE_PX)) for step in steps]
            row = strip.jpeg(np.concatenate(frames, 1), strip.TILE_PX)
            yield f"{row}<small>{html.escape(name)}</small>"
    except (MediaError, ValueError):
        yield "<div class=nothing>no picture</div>"


def _chart(name: str, rows: Sequence[Sequence[float]], hz: float) -> str:
    """The numbers of a state or an action over the seconds, a line each."""
    values = np.array(rows, np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).any():
        return ""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    seconds = np.arange(len(values)) / hz
    axes = svg.Axes(LEFT, 6, WIDTH, HEIGHT, (0.0, max(float(seconds[-1]), 1 / hz)), (low, high))
    lines = [
        axes.line(zip(seconds, column, strict=True), svg.COLOURS[i % len(svg.COLOURS)], width=1.2)
        for i, column in enumerate(values.T[:CURVES])
    ]
    drawn = svg.drawing(LEFT + WIDTH + 10, HEIGHT + 30, [*axes.grid(), *axes.numbers(), *lines])
    return f"<div><small>{name}, {values.shape[1]} numbers, over seconds</small>{drawn}</div>"
