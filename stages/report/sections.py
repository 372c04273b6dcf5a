"""The report's first sections: the funnel, the dataset's card, and the words of its texts."""

import html
from collections import Counter
from pathlib import Path

from handloom import svg
from handloom.stages.tables.funnel import Funnel
from handloom.stages.tables.parts import effort, stage_folder

WORDS_SHOWN = 40
STEP, HEIGHT, LEFT = 24, 160, 46  # pixels: a word's width, the bars' height, the counts' width


def funnel_section(funnel: Funnel, out: Path) -> str:
    """Counts and effort of every stage, as in the run's closing table."""
    rows = []
    for name, count in funnel.stages.items():
        computed, seconds, _ = effort(stage_folder(out, name))
        rate = f"{computed / seconds:.1f}" if computed and seconds else ""
        reasons = [
            f"{n:,} {svg.anchor(f'{name}-{why}', why)}" for why, n in count.rejected.most_common()
        ]
        rejected = svg.Markup("<br>".join(reasons))
        failed = svg.anchor(f"{name}-failed", f"{count.failed:,}") if count.failed else ""
        cells = (rejected, failed, f"{seconds:.1f}", rate)
        rows.append((name, count.entered, count.kept, *cells))
    heads = ("stage", "in", "kept", "rejected", "failed", "seconds", "clips/s")
    return (
        f"<p>{funnel.ingested} clips ingested = {funnel.kept} kept + {funnel.rejected} rejected + "
        f"{funnel.failed} failed.</p>{svg.table(heads, rows)}"
    )


def card_section(lines: list[tuple[str, str]]) -> str:
    """The dataset card: a label and a sentence on each line."""
    return f"<h2>Dataset</h2>{svg.table((), lines, words=(1,))}" if lines else ""


def words_section(title: str, before: Counter[str], after: Counter[str]) -> str:
    """Counts of words before and after selection, logarithmic (GR-2, Fig. 2)."""
    shown = before.most_common(WORDS_SHOWN)
    if not shown:
        return f"<div><h2>{title}</h2><p>no clip has a text</p></div>"
    width = STEP * len(shown)
    axes = svg.Axes(LEFT, 16, width, HEIGHT, (0, len(shown)), svg.counts(shown[0][1]), log_y=True)
    bars = [part for i, (word, n) in enumerate(shown) for part in _bars(axes, i, word, n, after)]
    more = f" (the {WORDS_SHOWN} most frequent)" if len(before) > len(shown) else ""
    drawn = svg.drawing(width + 60, HEIGHT + 100, [*axes.grid("{:,.0f}".format), *bars])
    return (
        f"<div><h2>{title}</h2><p>{len(before):,} different before, "
        f"{sum(n > 0 for n in after.values()):,} after selection{more}; light: all clips, dark: "
        f"those kept, logarithmic.</p>{drawn}</div>"
    )


def _bars(axes: svg.Axes, i: int, word: str, before: int, after: Counter[str]) -> list[str]:
    label = f"{word}: {before} before, {after[word]} after"
    x, y = axes.at(i + 0.4, before)
    name = f'transform="translate({x + 4:.0f},{axes.bottom + 12}) rotate(60)"'
    return [
        axes.column((i + 0.05, i + 0.75), before, svg.PALE, label),
        axes.column((i + 0.05, i + 0.75), after[word], svg.COLOURS[0], label),
        svg.text(x, y - 4, str(before), f"text-anchor='middle' fill='{svg.GREY}'"),
        f"<text {name}>{html.escape(word)}</text>",
    ]
