"""The picture of a scaling study as plain SVG: a row of two panels for each dataset.

Left the validation loss against tokens, a line for each run; right the final loss against trainable
parameters, a dot for each run, and the power law where there is one. Both x axes are logarithmic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handloom import svg
from handloom.svg import Axes

if TYPE_CHECKING:
    from handloom.train.pretrain.scaling_fit import PowerLaw

WIDTH, HEIGHT, PANEL_WIDTH, PANEL_HEIGHT = 960, 360, 380, 250
LEFT, TOP, NEXT = 70, 50, 480


Losses = dict[str, float]  # by dataset; "all" is the mean over all clips


@dataclass(frozen=True)
class SizeRun:
    """Size and losses of one run."""

    size: str
    seed: int
    parameters: int
    """Trainable ones."""
    tokens: list[int]
    """Codes seen at each validation."""
    losses: list[Losses]
    """Losses at the same validations."""


def draw(runs: Sequence[SizeRun], fits: Mapping[str, PowerLaw]) -> str:
    """An SVG file."""
    sizes = dict.fromkeys(run.size for run in runs)
    colours = {size: svg.COLOURS[i % len(svg.COLOURS)] for i, size in enumerate(sizes)}
    parts: list[str] = []
    for i, (dataset, law) in enumerate(fits.items()):
        parts += _against_tokens(runs, dataset, TOP + i * HEIGHT, colours)
        parts += _against_parameters(runs, dataset, TOP + i * HEIGHT, colours, law)
    return svg.drawing(WIDTH, TOP + HEIGHT * len(fits), parts, alone=True)


def _against_tokens(
    runs: Sequence[SizeRun], dataset: str, top: float, colours: Mapping[str, str]
) -> list[str]:
    losses = [loss[dataset] for run in runs for loss in run.losses]
    axes = _axes(LEFT, top, [tokens for run in runs for tokens in run.tokens], losses)
    parts = _frame(axes, f"{dataset}: validation loss, nats", "tokens seen")
    for run in runs:
        curve = [(t, loss[dataset]) for t, loss in zip(run.tokens, run.losses, strict=True)]
        parts.append(axes.line(curve, colours[run.size]))
    for i, (size, colour) in enumerate(colours.items()):
        parts.append(svg.key(LEFT + PANEL_WIDTH - 70, top + 20 + 17 * i, size, colour))
    return parts


def _against_parameters(
    runs: Sequence[SizeRun], dataset: str, top: float, colours: Mapping[str, str], law: PowerLaw
) -> list[str]:
    final = [run.losses[-1][dataset] for run in runs]
    axes = _axes(LEFT + NEXT, top, [run.parameters for run in runs], final)
    parts = _frame(axes, f"{dataset}: final loss, nats", "trainable parameters")
    if not law.undetermined:
        (first, last), (low, high) = axes.x_range, axes.y_range
        steps = [first * (last / first) ** (i / 60) for i in range(61)]
        curve = [(n, law(n)) for n in steps if low <= law(n) <= high]
        parts.append(axes.line(curve, "#999", dashed=True))
    for run, loss in zip(runs, final, strict=True):
        title = f"{run.size}, seed {run.seed}: {run.parameters:,} parameters, {loss:.4f} nats"
        parts.append(axes.dot((run.parameters, loss), colours[run.size], title, radius=4))
    below = svg.text(axes.x, axes.bottom + 52, str(law), f"fill='{svg.GREY}'")
    return [*parts, below]


def _axes(x: float, y: float, across: Sequence[float], losses: Sequence[float]) -> Axes:
    x_range = (min(across) / 1.25, max(across) * 1.25)
    y_range = svg.padded(losses, 0.08)
    return Axes(x, y, PANEL_WIDTH, PANEL_HEIGHT, x_range, y_range, log_x=True)


def _frame(axes: Axes, title: str, unit: str) -> list[str]:
    return [*axes.box(title, unit), *axes.grid(), *axes.numbers(svg.short)]
