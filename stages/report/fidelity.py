"""The report's section on how much of the pictures the codes keep."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from handloom import svg
from handloom.errors import MediaError, UserError
from handloom.stages.pack.fidelity import lines, measure
from handloom.stages.report.strip import jpeg
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip
from handloom.stages.tokens import Encoding

HEADS = ("", "pictures", "PSNR", "mean colour's", "SSIM", "mean colour's")


def section(tables: Tables, stages: Mapping[str, Stage]) -> str:
    """Numbers, advice, and the worst, the middle and the best clip; empty without a sample."""
    encoder = stages["tokens"]
    assert isinstance(encoder, Encoding)
    try:
        found = measure.measured(tables, stages)
        if not found:
            return ""
        if not found["fidelity"]:
            return f"<h2>Tokenizer</h2><p>{html.escape(lines.summary(found))}</p>"
        shown = _extremes(found["clips"])
        cards = [_card(tables, encoder, name, entry) for name, entry in shown.items()]
    except (MediaError, UserError) as error:
        return f"<h2>Tokenizer</h2><p>not measured: {html.escape(str(error))}</p>"
    advice = "".join(f"<p class=missing>{html.escape(x)}</p>" for x in lines.advice(found, tables))
    about = (
        f"{found['fidelity']['clips']} kept clips, decoded from their codes. The mean colour of "
        "each picture is what codes that say nothing would give."
    )
    table = svg.table(HEADS, _rows(found["fidelity"]))
    return (
        f"<h2>Tokenizer</h2><p>{about}</p>{advice}{table}"
        f"<p>Left, frames as they were encoded; right, what their codes say.</p><div class=cards>"
        f"{''.join(cards)}</div>"
    )


def _rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [_row("whole frames", facts["frames"], facts)]
    if hands := facts.get("hands"):
        rows.append(_row("hands in them", hands["count"], hands))
        rows.append(("around the hands", "", f"{hands['around_psnr_db']:.1f} dB", "", "", ""))
    return rows


def _row(name: str, count: int, facts: dict[str, Any]) -> tuple[str, ...]:
    psnr, floor = (f"{facts[key]:.1f} dB" for key in ("psnr_db", "mean_color_psnr_db"))
    similar, least = (f"{facts[key]:.2f}" for key in ("ssim", "mean_color_ssim"))
    return name, f"{count:,}", psnr, floor, similar, least


def _extremes(clips: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Up to three clips by a word for each."""
    by_id = {clips[-1]["clip_id"]: "best", clips[len(clips) // 2]["clip_id"]: "middle"}
    by_id[clips[0]["clip_id"]] = "worst"
    return {by_id[c["clip_id"]]: c for c in clips if c["clip_id"] in by_id}


def _card(tables: Tables, encoder: Encoding, name: str, entry: dict[str, Any]) -> str:
    clip = tables["ingest"].get(Clip, entry["bucket"], entry["clip_id"])
    pairs = measure.pairs(tables, encoder, clip)
    strip = np.concatenate([part for pair in pairs for part in (pair.true, pair.decoded)], 1)
    text = f"{name}: {entry['gain_db']:.1f} dB over the mean colour. {clip.text}"
    words = f"<figcaption>{html.escape(text)}</figcaption>"
    return f"<figure class=wide>{jpeg(strip, 220)}{words}</figure>"
