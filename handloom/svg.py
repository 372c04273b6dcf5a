"""Charts as SVG, and pages of them as HTML: no script, no network, one look.

Coordinates of the page are pixels from the top left; those of an `Axes` are the values it shows.
"""

import base64
import html
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = ("#4a7c8c", "#c47f17", "#8c4a6b", "#4f7d3a", "#5a5a9c", "#777")
PALE, GREY, RED = "#c5d6db", "#666", "#b3402a"
JPEG_QUALITY = 85

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fafaf8; margin: 2rem auto;
       max-width: 92rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; margin: .8rem 0; } td, th { padding: .3rem .9rem;
       text-align: right; border-bottom: 1px solid #ddd; vertical-align: top; }
td:first-child, th:first-child, .words { text-align: left; }
figure { margin: 0; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
small { color: #666; } img, video { max-width: 100%; border-radius: 3px; display: block; }
svg { max-width: 100%; height: auto; } pre { background: #eee; padding: .6rem; }
.cards { display: grid; gap: 1rem;
         grid-template-columns: repeat(auto-fill, minmax(min(14rem, 100%), 1fr)); }
.cards figure:not(.wide) > img:only-of-type { width: 100%; aspect-ratio: 16 / 9;
         object-fit: contain; background: #e6e6e2; }
.cards img + img { margin-top: .3rem; } .cards details img { margin-top: .3rem; }
.cards figure:has(details[open]), .cards figure.wide { grid-column: span 2; }
.cards summary { color: #555; font-size: .85rem; font-weight: normal; }
.legend { list-style: none; padding: 0; } .legend span { display: inline-block; width: 1.2rem;
          height: .9rem; margin-right: .5rem; box-sizing: border-box; vertical-align: middle; }
.steps { display: flex; flex-wrap: wrap; gap: .3rem; font-size: .85rem; }
.steps div { background: #eee; padding: .2rem .5rem; text-align: right; }
mark { background: #f3d27a; padding: 0 .3rem; font-weight: bold; }
@media (max-width: 40rem) { table { display: block; overflow-x: auto; }
         .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem; } }
.charts { display: flex; flex-wrap: wrap; gap: .5rem 1rem; }
.beside { display: flex; flex-wrap: wrap; gap: 0 3rem; } .beside > div { min-width: 0; }
nav { position: sticky; top: 0; background: #fafaf8; border-bottom: 1px solid #ddd;
      padding: .4rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .9rem;
      z-index: 1; }
section, figure { scroll-margin-top: 4rem; } a { color: #2f6678; }
figure:target { outline: 3px solid #f3d27a; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: bold; }
.score { display: grid; gap: 0 2rem; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); }
.score .cards { grid-template-columns: repeat(auto-fill, minmax(min(13rem, 100%), 1fr)); }
.score h3, .score > p { grid-column: 1 / -1; margin-bottom: .2rem; }
@media (max-width: 60rem) { .score { display: block; } nav { position: static; } }
.nothing { background: #e6e6e2; color: #888; height: 120px; display: grid; place-items: center; }
.missing { background: #f3ead7; padding: .4rem .8rem; }
"""

Point = tuple[float, float]
Range = tuple[float, float]


class Markup(str):
    """Text that is HTML already; `table` escapes all other."""


def page(title: str, sections: Iterable[str]) -> str:
    """A whole HTML page; sections made by `section` are linked at its head.

    Args:
        title: plain text.
        sections: HTML.
    """
    sections = [*sections]
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1>{_links(sections)}{''.join(sections)}</html>\n"
    )


class Section(str):
    """HTML of a section that can be linked to.

    Attributes:
        name: its anchor.
        link: the words that lead there, plain text.
    """

    name: str
    link: str


def section(name: str, link: str, content: str) -> Section:
    """Content that a page links to at its head, by an anchor."""
    made = Section(f'<section id="{html.escape(name)}">{content}</section>')
    made.name, made.link = name, link
    return made


def anchor(name: str, words: str) -> Markup:
    """Words that lead to a section or a figure of the same page."""
    return Markup(f'<a href="#{html.escape(name)}">{html.escape(words)}</a>')


def folded(summary: str, content: str) -> str:
    """Content that shows when its summary, plain text, is clicked."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def _links(sections: Sequence[str]) -> str:
    links = [anchor(one.name, one.link) for one in sections if isinstance(one, Section)]
    return f"<nav>{''.join(links)}</nav>" if links else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], words: Sequence[int] = ()) -> str:
    """An HTML table; cells are shown as `str` gives them.

    Args:
        heads: of the columns; without any there is no such row.
        rows: cells.
        words: numbers of the columns that hold sentences, and not figures.
    """

    def row(kind: str, cells: Sequence[object]) -> str:
        shown = (cell if isinstance(cell, Markup) else html.escape(str(cell)) for cell in cells)
        classes = (" class=words" if i in words else "" for i in range(len(cells)))
        row = (f"<{kind}{c}>{text}</{kind}>" for c, text in zip(classes, shown, strict=True))
        return f"<tr>{''.join(row)}</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return f"<table>{row('th', heads) if heads else ''}{body}</table>"


def inline(picture: "Image", words: str = "", width: int = 10_000, height: int = 10_000) -> str:
    """A picture as a JPEG inside the page, shrunk to fit into `width` x `height` pixels."""
    from PIL.Image import Resampling

    small = picture.convert("RGB")
    small.thumbnail((width, height), Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/jpeg;base64,{data}">'


def film(path: Path, width: int = 480) -> str:
    """An mp4 inside the page, that plays when asked to."""
    data = base64.b64encode(path.read_bytes()).decode()
    source = f'src="data:video/mp4;base64,{data}"'
    return f'<video controls loop muted playsinline width="{width}" {source}></video>'


def drawing(width: float, height: float, parts: Iterable[str], alone: bool = False) -> str:
    """An SVG element of a page, or a file that stands alone."""
    head = (
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-size="12" fill="#222"'
    )
    if not alone:
        return f"<svg {head}>{''.join(parts)}</svg>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {head} font-family="system-ui, sans-serif">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def text(x: float, y: float, words: str, style: str = "") -> str:
    """Words; `style` are attributes, such as `text-anchor='end'`."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{html.escape(words)}</text>'


def rect(x: float, y: float, width: float, height: float, colour: str, title: str = "") -> str:
    """A filled box, which says its title when pointed at."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{colour}">{_title(title)}</rect>'
    )


def key(x: float, y: float, name: str, colour: str, dashed: bool = False) -> str:
    """A line of the legend: a stroke and its name."""
    stroke = f'stroke="{colour}" stroke-width="2"{_dashes(dashed)}'
    return f'<path d="M{x:.0f} {y - 4:.0f}h20" {stroke}/>{text(x + 25, y, name)}'


@dataclass(frozen=True)
class Axes:
    """A box on the page, and the values that its sides stand for."""

    x: float
    y: float
    width: float
    height: float
    x_range: Range
    y_range: Range
    log_x: bool = False
    log_y: bool = False

    @property
    def bottom(self) -> float:
        """The lower side, pixels from the top of the page."""
        return self.y + self.height

    def at(self, x: float, y: float) -> Point:
        """Position of a point on the page, pixels."""
        across, up = _share(x, self.x_range, self.log_x), _share(y, self.y_range, self.log_y)
        return self.x + self.width * across, self.y + self.height * (1 - up)

    def box(self, title: str, unit: str) -> list[str]:
        """The box, its title above and the name of the x axis below."""
        return [
            text(self.x, self.y - 12, title, "font-weight='bold'"),
            f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" '
            'fill="none" stroke="#bbb"/>',
            text(self.x + self.width, self.bottom + 34, unit, f"text-anchor='end' fill='{GREY}'"),
        ]

    def grid(self, label: Callable[[float], str] = "{:.4g}".format) -> list[str]:
        """Lines across at round values of y, with their numbers."""
        parts = []
        for value in ticks(*self.y_range, self.log_y):
            _, y = self.at(self.x_range[0], value)
            parts.append(f'<path d="M{self.x} {y:.1f}h{self.width}" stroke="#e4e4e4"/>')
            parts.append(text(self.x - 6, y + 4, label(value), f"text-anchor='end' fill='{GREY}'"))
        return parts

    def numbers(self, label: Callable[[float], str] = "{:,.4g}".format) -> list[str]:
        """Round values of x below the box."""
        parts = []
        for value in ticks(*self.x_range, self.log_x):
            x, _ = self.at(value, self.y_range[0])
            parts.append(f'<path d="M{x:.1f} {self.bottom}v4" stroke="#888"/>')
            parts.append(
                text(x, self.bottom + 17, label(value), f"text-anchor='middle' fill='{GREY}'")
            )
        return parts

    def line(
        self, points: Iterable[Point], colour: str, dashed: bool = False, width: float = 1.8
    ) -> str:
        """A line through points."""
        path = " ".join("{:.1f},{:.1f}".format(*self.at(*point)) for point in points)
        stroke = f'stroke="{colour}" stroke-width="{width}"{_dashes(dashed)}'
        return f'<polyline points="{path}" fill="none" {stroke}/>'

    def dot(self, point: Point, colour: str, title: str = "", radius: float = 2.8) -> str:
        """A dot, which says its title when pointed at."""
        x, y = self.at(*point)
        place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
        return f'<circle {place} fill="{colour}">{_title(title)}</circle>'

    def rule(self, x: float, colour: str) -> str:
        """A line from top to bottom, such as a threshold."""
        across, top = self.at(x, self.y_range[1])
        stroke = f'stroke="{colour}" stroke-width="2"'
        return f'<path d="M{across:.1f} {top - 4:.1f}v{self.height + 8}" {stroke}/>'

    def column(self, x: Range, y: float, colour: str, title: str = "") -> str:
        """A bar that stands on the lower side, from x[0] to x[1]; nothing where y is below it."""
        if y < self.y_range[0]:
            return ""
        (left, top), (right, _) = self.at(x[0], y), self.at(x[1], y)
        return rect(left, top, right - left, self.bottom - top, colour, title)


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name and its points (x, y), in the order of x."""

    name: str
    points: Sequence[Point]
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
    finite = [(line, [point for point in line.points if math.isfinite(point[1])]) for line in lines]
    kept = [(line, points) for line, points in finite if points]
    if not kept:
        return ""
    x_most = max(x for _, points in kept for x, _ in points) or 1.0
    y_range = padded([y for _, points in kept for _, y in points])
    axes = Axes(58, 34, 440, 190, (0.0, x_most), y_range)
    parts = [*axes.box(title, unit), *axes.grid(), *axes.numbers()]
    for i, (line, points) in enumerate(kept):
        colour = COLOURS[i % len(COLOURS)]
        parts.append(axes.line(points, colour, dashed=line.dashed))
        if not line.dashed and len(points) <= 30:  # a dot for each validation, none for each step
            parts += [axes.dot((x, y), colour, f"{line.name}: {y:.4g} at {x:g}") for x, y in points]
        x = axes.x + i * axes.width / len(kept)
        parts.append(key(x, axes.bottom + 52, line.name, colour, line.dashed))
    return drawing(axes.x + axes.width + 20, axes.bottom + 64, parts)


def padded(values: Sequence[float], pad: float = 0.06) -> Range:
    """A range that holds all values, with some room on either side."""
    low, high = min(values), max(values)
    room = pad * (high - low) or 0.1 * abs(low) or 0.1
    return low - room, high + room


def counts(most: int) -> Range:
    """The range of a logarithmic axis of counts, on which one is a bar and none is not."""
    return 0.6, 10.0 ** max(1, math.ceil(math.log10(most + 1)))


def ticks(low: float, high: float, log: bool = False) -> list[float]:
    """About four round numbers between two others; on a logarithmic axis 1, 2 and 5 of each ten."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        wanted = (1, 2, 5) if high / low < 300 else (1,)
        return [m * 10.0**p for p in powers for m in wanted if low <= m * 10.0**p <= high]
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short(value: float) -> str:
    """A number of the size of 2k, 5M or 1B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _share(value: float, span: Range, log: bool) -> float:
    low, high = map(math.log10, span) if log else span
    return ((math.log10(value) if log else value) - low) / (high - low)


def _title(words: str) -> str:
    return f"<title>{html.escape(words)}</title>" if words else ""


def _dashes(dashed: bool) -> str:
    return ' stroke-dasharray="5 4"' if dashed else ""
