"""Bars of success rates, their intervals, lines and film strips, for the report of both stages."""

import html
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from handloom import svg
from handloom.svg import Line

BAR_LEFT, BAR_WIDTH, BAR_HEIGHT, BAR_STEP = 170, 300, 11, 13
STRIP_WIDTH = 1100  # pixels
LANCZOS = Image.Resampling.LANCZOS
Z95 = 1.96  # of a 95 % interval

Tried = Mapping[str, tuple[int, int]]


def rate_chart(rates: Mapping[str, Tried]) -> str:
    """Bars of success rates from 0 to 100 %: for each task one for each who tried it.

    Args:
        rates: by who, by task: how often it was done, of how many attempts.
    """
    tasks = sorted({task for tried in rates.values() for task in tried})
    colours = dict(zip(rates, svg.COLOURS, strict=False))
    group = BAR_STEP * len(rates) + 10
    parts = []
    for i, (who, colour) in enumerate(colours.items()):
        x = BAR_LEFT + 110 * i
        parts += [svg.rect(x, 6, 12, 11, colour), svg.text(x + 17, 16, who)]
    for i, task in enumerate(tasks):
        y = 30 + i * group
        name = task.replace("_", " ")
        parts.append(svg.text(BAR_LEFT - 8, y + group / 2, name, "text-anchor='end'"))
        for j, (who, tried) in enumerate(rates.items()):
            if task in tried:
                parts += _bar(*tried[task], y + j * BAR_STEP, colours[who])
    return svg.drawing(BAR_LEFT + BAR_WIDTH + 90, 34 + group * len(tasks), parts)


def _bar(done: int, tried: int, y: float, colour: str) -> list[str]:
    width = max(1.5, BAR_WIDTH * done / tried)  # a rate of zero is a bar too, not a gap
    return [
        svg.rect(BAR_LEFT, y, width, BAR_HEIGHT, colour),
        svg.text(BAR_LEFT + width + 6, y + 10, f"{done} of {tried}", f"fill='{svg.GREY}'"),
    ]


def interval(done: int, tried: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate (Wilson 1927), both ends between 0 and 1."""
    rate, weight = done / tried, Z95**2 / tried
    middle = (rate + weight / 2) / (1 + weight)
    half = Z95 * math.sqrt(rate * (1 - rate) / tried + weight / (4 * tried)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


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


def missing(path: Path) -> str:
    """The sentence in place of a part that is not there."""
    return (
        f"<p class=missing>{html.escape(str(path))} is not there or not finished: run the same "
        "command again, it goes on where it stopped.</p>"
    )


def lines_or_words(title: str, lines: list[Line]) -> str:
    """A chart over the steps; of single points their values, for the box would be empty."""
    if any(len(line.points) > 1 for line in lines):
        return svg.line_chart(title, "steps", lines)
    told = [f"{line.name} {line.points[0][1]:.3f}" for line in lines if line.points]
    return (
        f"<p>{html.escape(title)}, measured once: {html.escape(', '.join(told))}.</p>"
        if told
        else ""
    )
