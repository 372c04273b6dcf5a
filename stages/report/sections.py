"""The report's page frame and its charts, as plain HTML and inline SVG: no script, no network."""

import html
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from handloom.stages.tables.funnel import Funnel
from handloom.stages.tables.parts import effort, stage_folder

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fafaf8; margin: 2rem auto;
       max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .9rem; text-align: right;
       vertical-align: top; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child, .words { text-align: left; }
figure { margin: 0; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
small { color: #666; } img { max-width: 100%; border-radius: 3px; display: block; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
.strip { margin-bottom: 1.2rem; }
.nothing { background: #e6e6e2; color: #888; height: 120px; display: grid; place-items: center; }
"""
BAR = "#4a7c8c"
PALE = "#c5d6db"
WORDS_SHOWN = 40


def page(title: str, sections: Iterable[str]) -> str:
    """A whole HTML page."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{''.join(sections)}</html>\n"
    )


def funnel_section(funnel: Funnel, out: Path) -> str:
    """What every stage did, as the run's closing table shows it."""
    rows = []
    for name, count in funnel.stages.items():
        computed, seconds, _ = effort(stage_folder(out, name))
        rate = f"{computed / seconds:.1f}" if computed and seconds else ""
        reasons = "<br>".join(f"{n} {html.escape(why)}" for why, n in count.rejected.most_common())
        cells = (
            name,
            count.entered,
            count.kept,
            reasons,
            count.failed or "",
            f"{seconds:.1f}",
            rate,
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("stage", "in", "kept", "rejected", "failed", "seconds", "clips/s")
    return (
        f"<p>{funnel.ingested} clips ingested = {funnel.kept} kept + {funnel.rejected} rejected + "
        f"{funnel.failed} failed.</p><table><tr>{''.join(f'<th>{h}</th>' for h in heads)}</tr>"
        f"{''.join(rows)}</table>"
    )


def card_section(lines: list[tuple[str, str]]) -> str:
    """The dataset card: a label and a sentence on each line."""
    rows = "".join(
        f"<tr><td>{html.escape(label)}</td><td class=words>{html.escape(text)}</td></tr>"
        for label, text in lines
    )
    return f"<h2>Dataset</h2><table>{rows}</table>" if lines else ""


def words_section(title: str, before: Counter[str], after: Counter[str]) -> str:
    """How often words are said, before and after selection, logarithmic (GR-2, Fig. 2)."""
    shown = before.most_common(WORDS_SHOWN)
    if not shown:
        return f"<h2>{title}</h2><p>no clip has a text</p>"
    step, height = 24, 160
    decades = max(1, math.ceil(math.log10(shown[0][1] + 1)))
    bars = [
        _bar(i * step + 46, word, n, after[word], height, decades)
        for i, (word, n) in enumerate(shown)
    ]
    lines = [_decade(d, height, decades, 46 + step * len(shown)) for d in range(decades + 1)]
    more = f" (the {WORDS_SHOWN} most frequent)" if len(before) > len(shown) else ""
    width = 60 + step * len(shown)
    return (
        f"<h2>{title}</h2><p>{len(before):,} different before, "
        f"{sum(n > 0 for n in after.values()):,} after selection{more}; light: all clips, dark: "
        "those kept, logarithmic.</p>"
        f'<svg width="{width}" height="{height + 90}" font-size="12">{"".join(lines + bars)}</svg>'
    )


def _bar(x: int, word: str, before: int, after: int, height: int, decades: int) -> str:
    # log10(count + 1) would bend the scale; a count of one still wants a visible bar
    tall = [max(2.0, height * math.log10(n) / decades) if n else 0.0 for n in (before, after)]
    drawn = "".join(
        f'<rect x="{x}" y="{height - h + 10:.1f}" width="16" height="{h:.1f}" fill="{colour}"/>'
        for h, colour in zip(tall, (PALE, BAR), strict=True)
    )
    return (
        f"<g><title>{html.escape(word)}: {before} before, {after} after</title>{drawn}</g>"
        f'<text x="{x + 8}" y="{height - tall[0] + 6:.1f}" text-anchor="middle" fill="#666">'
        f"{before}</text>"
        f'<text transform="translate({x + 12},{height + 18}) rotate(60)">{html.escape(word)}</text>'
    )


def _decade(decade: int, height: int, decades: int, width: int) -> str:
    y = 10 + height * (1 - decade / decades)
    return (
        f'<line x1="40" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        f'<text x="36" y="{y + 4:.1f}" text-anchor="end" fill="#666">{10**decade:,}</text>'
    )
