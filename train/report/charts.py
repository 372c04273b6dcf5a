"""Charts, tables and pictures of a page that needs no script and no network."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ("#4a7c8c", "#c47f17", "#8c4a6b", "#4f7d3a", "#777")
WIDTH, HEIGHT = 440, 190  # of a line chart's box, pixels
LEFT, TOP, BOTTOM = 58, 34, 60
BAR_LEFT, BAR_WIDTH, BAR_HEIGHT, BAR_STEP = 170, 300, 11, 13
QUALITY = 85
STRIP_WIDTH = 1100  # pixels
LANCZOS = Image.Resampling.LANCZOS
Z95 = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name and its points (x, y), in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    """Something to compare with, rather than what was learned."""


def line_chart(title: str, unit: str, lines: Sequence[Line]) -> str:
    """Lines over a common x axis that begins at 0, with their names below.

    Args:
        title: what y is.
        unit: what x is.
        lines: those without a point are left out; values that are not finite too.

    Returns:
        An SVG element; an empty text where there is nothing to draw.
    """
    kept = [(line, _finite(line.points)) for line in lines]
    kept = [(line, points) for line, points in kept if points]
    if not kept:
        return ""
    x_most = max(x for _, points in kept for x, _ in points) or 1.0
    y_range = _padded([y for _, points in kept for _, y in points])
    parts = _frame(title, unit, x_most, y_range)
    for i, (line, points) in enumerate(kept):
        colour = COLOURS[i % len(COLOURS)]
        parts += _drawn(line, points, colour, x_most, y_range)
        x = LEFT + i * (WIDTH / len(kept))
        y = TOP + HEIGHT + 48
        dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<path d="M{x:.0f} {y - 4}h20" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts.append(_text(x + 25, y, line.name))
    return _svg(LEFT + WIDTH + 20, TOP + HEIGHT + BOTTOM, parts)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _drawn(
    line: Line,
    points: Sequence[tuple[float, float]],
    colour: str,
    x_most: float,
    y_range: tuple[float, float],
) -> list[str]:
    page = [(LEFT + WIDTH * x / x_most, TOP + HEIGHT * (1 - _share(y, y_range))) for x, y in points]
    dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in page)
    drawn = [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>'
    ]
    if not line.dashed and len(points) <= 30:  # a dot for each validation, none for each step
        for (x, y), (step, value) in zip(page, points, strict=True):
            told = html.escape(f"{line.name}: {value:.4g} at {step:g}")
            drawn.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" fill="{colour}">'
                f"<title>{told}</title></circle>"
            )
    return drawn


def _frame(title: str, unit: str, x_most: float, y_range: tuple[float, float]) -> list[str]:
    bottom = TOP + HEIGHT
    parts = [
        _text(LEFT, TOP - 12, title, "font-weight='bold'"),
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>',
        _text(LEFT + WIDTH, bottom + 30, unit, "text-anchor='end' fill='#666'"),
    ]
    for value in _ticks(*y_range):
        y = TOP + HEIGHT * (1 - _share(value, y_range))
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#e4e4e4"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:.4g}", "text-anchor='end'"))
    for value in _ticks(0.0, x_most):
        x = LEFT + WIDTH * value / x_most
        parts.append(_text(x, bottom + 16, f"{value:,.4g}", "text-anchor='middle'"))
    return parts


def _padded(values: Sequence[float]) -> tuple[float, float]:
    pad = 0.06 * (max(values) - min(values)) or 0.1 * abs(values[0]) or 0.1
    return min(values) - pad, max(values) + pad


def _share(value: float, span: tuple[float, float]) -> float:
    return (value - span[0]) / (span[1] - span[0])


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers between two others."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


Tried = Mapping[str, tuple[int, int]]


def rate_chart(rates: Mapping[str, Tried]) -> str:
    """Bars of success rates from 0 to 100 %: for each task one for each who tried it.

    Args:
        rates: by who, by task: how often it was done, of how many attempts.
    """
    tasks = sorted({task for tried in rates.values() for task in tried})
    colours = dict(zip(rates, COLOURS, strict=False))
    group = BAR_STEP * len(rates) + 10
    parts = []
    for i, who in enumerate(rates):
        x = BAR_LEFT + 110 * i
        parts.append(f'<rect x="{x}" y="6" width="12" height="11" fill="{colours[who]}"/>')
        parts.append(_text(x + 17, 16, who))
    for i, task in enumerate(tasks):
        y = 30 + i * group
        parts.append(
            _text(BAR_LEFT - 8, y + group / 2, task.replace("_", " "), "text-anchor='end'")
        )
        for j, (who, tried) in enumerate(rates.items()):
            if task in tried:
                parts += _bar(*tried[task], y + j * BAR_STEP, colours[who])
    return _svg(BAR_LEFT + BAR_WIDTH + 90, 34 + group * len(tasks), parts)


def _bar(done: int, tried: int, y: float, colour: str) -> list[str]:
    width = max(1.5, BAR_WIDTH * done / tried)  # a rate of zero is a bar too, not a gap
    return [
        f'<rect x="{BAR_LEFT}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" fill="{colour}"/>',
        _text(BAR_LEFT + width + 6, y + 10, f"{done} of {tried}", "fill='#666'"),
    ]


def interval(done: int, tried: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate (Wilson 1927), both ends between 0 and 1."""
    rate, weight = done / tried, Z95**2 / tried
    middle = (rate + weight / 2) / (1 + weight)
    half = Z95 * math.sqrt(rate * (1 - rate) / tried + weight / (4 * tried)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def inline(picture: Image.Image, width: int, words: str) -> str:
    """A picture as a JPEG inside the page, no wider than `width` pixels."""
    if picture.width > width:
        height = round(picture.height * width / picture.width)
        picture = picture.resize((width, height), LANCZOS)
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="JPEG", quality=QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/jpeg;base64,{data}">'


def film_strip(video: Path, stills: int, words_px: int) -> Image.Image:
    """Frames of a film side by side under its words, spread evenly from the first to the last.

    Args:
        video: whose frames have words below the picture.
        stills: how many frames.
        words_px: height of the words; they are shown once, and in their own size.

    Raises:
        OSError: it cannot be read as a video.
    """
    import av

    try:
        with av.open(str(video)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        raise OSError(f"{video} is not a readable video ({error})") from error
    numbers = np.linspace(0, len(frames) - 1, stills).round().astype(int).tolist()
    pictures = np.concatenate([frames[i][:-words_px] for i in numbers], axis=1)
    height, width = pictures.shape[:2]
    scale = STRIP_WIDTH / width
    small = Image.fromarray(pictures).resize((STRIP_WIDTH, round(height * scale)), LANCZOS)
    strip = Image.new("RGB", (STRIP_WIDTH, words_px + small.height), "white")
    strip.paste(Image.fromarray(frames[0][-words_px:]), (0, 0))
    strip.paste(small, (0, words_px))
    return strip


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; cells are shown as `str` gives them."""
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{body}</table>"


def missing(path: Path) -> str:
    """The sentence in place of a part that is not there."""
    return (
        f"<p class=missing>{html.escape(str(path))} is not there or not finished: run the same "
        "command again, it goes on where it stopped.</p>"
    )


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{html.escape(words)}</text>'


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-size="12" fill="#222">{"".join(parts)}</svg>'
    )
