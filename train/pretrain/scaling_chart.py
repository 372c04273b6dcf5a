"""The picture of a scaling study as plain SVG: a row of two panels for each dataset.

Left the validation loss against tokens, a line for each run; right the final loss against trainable
parameters, a dot for each run, and the power law where there is one. Both x axes are logarithmic.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handloom.train.pretrain.scaling import SizeRun
    from handloom.train.pretrain.scaling_fit import PowerLaw

COLOURS = ("#c47f17", "#4a7c8c", "#8c4a6b", "#4f7d3a", "#5a5a9c", "#777")
WIDTH, HEIGHT, PANEL_WIDTH, PANEL_HEIGHT = 960, 360, 380, 250
LEFT, TOP, NEXT = 70, 50, 480


@dataclass(frozen=True)
class Panel:
    """Where values lie on the page."""

    x: float
    y: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def at(self, value: float, loss: float) -> tuple[float, float]:
        """Page coordinates of a point."""
        low, high = map(math.log10, self.x_range)
        across = (math.log10(value) - low) / (high - low)
        up = (loss - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return self.x + PANEL_WIDTH * across, self.y + PANEL_HEIGHT * (1 - up)

    def line(self, points: Sequence[tuple[float, float]], colour: str, style: str = "") -> str:
        """A line through points."""
        page = " ".join("{:.1f},{:.1f}".format(*self.at(*point)) for point in points)
        return f'<polyline points="{page}" fill="none" stroke="{colour}" {style}/>'

    def dot(self, value: float, loss: float, colour: str, title: str) -> str:
        """A point that tells its numbers when pointed at."""
        x, y = self.at(value, loss)
        words = f"<title>{html.escape(title)}</title>"
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{words}</circle>'

    def frame(self, title: str, unit: str) -> list[str]:
        """Title, box, ticks and the name of the x axis."""
        bottom = self.y + PANEL_HEIGHT
        parts = [
            _text(self.x, self.y - 12, title, "font-weight='bold'"),
            f'<rect x="{self.x}" y="{self.y}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}" '
            'fill="none" stroke="#bbb"/>',
            _text(self.x + PANEL_WIDTH, bottom + 36, unit, "text-anchor='end'"),
        ]
        for loss in _ticks(*self.y_range):
            y = self.at(self.x_range[0], loss)[1]
            parts.append(f'<path d="M{self.x} {y:.1f}h{PANEL_WIDTH}" stroke="#e4e4e4"/>')
            parts.append(_text(self.x - 6, y + 4, f"{loss:.4g}", "text-anchor='end'"))
        for value in _decades(*self.x_range):
            x = self.at(value, self.y_range[0])[0]
            parts.append(f'<path d="M{x:.1f} {bottom}v5" stroke="#888"/>')
            parts.append(_text(x, bottom + 19, _short(value), "text-anchor='middle'"))
        return parts


def draw(runs: Sequence[SizeRun], fits: dict[str, PowerLaw]) -> str:
    """An SVG file."""
    sizes = list(dict.fromkeys(run.size for run in runs))
    colour = {size: COLOURS[i % len(COLOURS)] for i, size in enumerate(sizes)}
    parts: list[str] = []
    for i, (dataset, law) in enumerate(fits.items()):
        top = TOP + i * HEIGHT
        parts += _against_tokens(runs, dataset, top, colour.__getitem__)
        parts += _against_parameters(runs, dataset, top, colour.__getitem__, law)
    height = TOP + HEIGHT * len(fits)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#222">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _against_tokens(
    runs: Sequence[SizeRun], dataset: str, top: float, colour: Callable[[str], str]
) -> list[str]:
    losses = [loss[dataset] for run in runs for loss in run.losses]
    tokens = [tokens for run in runs for tokens in run.tokens]
    panel = Panel(LEFT, top, _padded(tokens), _range(losses))
    parts = panel.frame(f"{dataset}: validation loss, nats", "tokens seen")
    for run in runs:
        curve = [(t, loss[dataset]) for t, loss in zip(run.tokens, run.losses, strict=True)]
        parts.append(panel.line(curve, colour(run.size), 'stroke-width="1.6"'))
    for i, size in enumerate(dict.fromkeys(run.size for run in runs)):
        x, y = LEFT + PANEL_WIDTH - 70, top + 20 + 17 * i
        parts.append(f'<path d="M{x} {y - 4}h18" stroke="{colour(size)}" stroke-width="3"/>')
        parts.append(_text(x + 24, y, size))
    return parts


def _against_parameters(
    runs: Sequence[SizeRun],
    dataset: str,
    top: float,
    colour: Callable[[str], str],
    law: PowerLaw,
) -> list[str]:
    final = [run.losses[-1][dataset] for run in runs]
    ends = _padded([run.parameters for run in runs])
    panel = Panel(LEFT + NEXT, top, ends, _range(final))
    parts = panel.frame(f"{dataset}: final loss, nats", "trainable parameters")
    if not law.undetermined:
        steps = [ends[0] * (ends[1] / ends[0]) ** (i / 60) for i in range(61)]
        low, high = panel.y_range
        curve = [(n, law(n)) for n in steps if low <= law(n) <= high]
        parts.append(panel.line(curve, "#999", 'stroke-dasharray="5 4"'))
    for run, loss in zip(runs, final, strict=True):
        title = f"{run.size}, seed {run.seed}: {run.parameters:,} parameters, {loss:.4f} nats"
        parts.append(panel.dot(run.parameters, loss, colour(run.size), title))
    return [*parts, _text(LEFT + NEXT, top + PANEL_HEIGHT + 52, str(law), "fill='#666'")]


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{html.escape(words)}</text>'


def _padded(values: Sequence[float]) -> tuple[float, float]:
    return min(values) / 1.25, max(values) * 1.25


def _range(losses: Sequence[float]) -> tuple[float, float]:
    pad = 0.08 * (max(losses) - min(losses)) or 0.1
    return min(losses) - pad, max(losses) + pad


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wanted = (1, 2, 5) if high / low < 300 else (1,)
    return [m * 10**p for p in powers for m in wanted if low <= m * 10**p <= high]


def _short(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
