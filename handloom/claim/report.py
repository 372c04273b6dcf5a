"""OUT/report.html of `handloom claim`: success against demonstrations, tables, pictures."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from handloom import svg
from handloom.claim.config import ClaimConfig
from handloom.claim.plan import FROZEN, NAMES, STAGE1
from handloom.claim.results import CellResult, collect, read, scripts, verdict
from handloom.files import write_text

MODES = {"frozen": "the GPT stays as it is", "full": "everything is trained"}
PICTURES = 3  # of each folder
INTRODUCTION = """<p>A robot is to touch the block of a colour, on a table where blocks, doors and
lights are anywhere; the block that it touches first decides. A GPT is pre-trained on videos without
actions, then fine-tuned on demonstrations. Intervals are Wilson's, 95 %, over the attempts of all
seeds; seeds stand beside them, for trainings differ too.</p>"""


def write(config: ClaimConfig) -> None:
    """Write report.html and results.json of what is done so far."""
    results = collect(config)
    sections = [INTRODUCTION, *_verdicts(results), *_charts(results), _table(results)]
    sections += [*_scripts(config), *_stage1(config.out), *_imagined(config.out)]
    sections += _pictures(config.out)
    plain = {
        "cells": [asdict(one) | {"interval": one.success.interval} for one in results],
        "scripts": {name: asdict(count) for name, count in scripts(config).items()},
    }
    write_text(config.out / "results.json", json.dumps(plain, indent=1) + "\n")
    write_text(config.out / "report.html", svg.page("What videos of hands are worth", sections))


def _verdicts(results: Sequence[CellResult]) -> Iterator[str]:
    lines = [line for mode in MODES for line in verdict(results, mode)]
    if lines:
        yield "<h2>Does pre-training help, and is it the hands?</h2>"
        yield "<p>Intervals count attempts, not trainings. A frozen GPT without stage 1 has random "
        yield "weights, a weak rival: one that is trained on the demonstrations stands under "
        yield "<i>full</i>, where it was run.</p>"
        yield svg.table((), [(line,) for line in lines], words=(0,))


def _charts(results: Sequence[CellResult]) -> Iterator[str]:
    yield "<h2>Success against demonstrations</h2><div class=charts>"
    for mode, says in MODES.items():
        shown = [one for one in results if one.mode == mode]
        if shown:
            yield _chart(f"{mode}: {says}", shown)
    yield "</div>"


def _chart(title: str, shown: Sequence[CellResult]) -> str:
    most = max(one.demonstrations for one in shown)
    least = min(one.demonstrations for one in shown)
    axes = svg.Axes(58, 34, 460, 240, (least / 1.4, most * 1.4), (0.0, 1.0), log_x=True)
    parts = [*axes.box(title, "demonstrations of each task"), *axes.grid("{:.0%}".format)]
    parts += axes.numbers()
    kinds = [kind for kind in FROZEN if any(one.kind == kind for one in shown)]
    for number, kind in enumerate(kinds):
        colour, dashed = svg.COLOURS[number % len(svg.COLOURS)], kind in ("nothing", "blind")
        rows = sorted((o for o in shown if o.kind == kind), key=lambda one: one.demonstrations)
        # Side by side, so that intervals do not hide each other.
        aside = 1.0 + 0.05 * (number - (len(kinds) - 1) / 2)
        points = [(one.demonstrations * aside, one.success.rate) for one in rows]
        parts.append(axes.line(points, colour, dashed))
        for one, point in zip(rows, points, strict=True):
            low, high = one.success.interval
            parts.append(axes.line([(point[0], low), (point[0], high)], colour, width=1.2))
            says = f"{NAMES[kind]}: {one.success.rate:.0%} ({low:.0%} to {high:.0%})"
            parts.append(axes.dot(point, colour, says))
        parts.append(svg.key(axes.x, axes.bottom + 50 + 18 * number, NAMES[kind], colour, dashed))
    return svg.drawing(axes.x + axes.width + 20, axes.bottom + 60 + 18 * len(kinds), parts)


def _table(results: Sequence[CellResult]) -> str:
    heads = ("stage 1", "GPT", "demonstrations", "success", "95 %", "by seed", "another block",
             "arm error")  # fmt: skip
    rows = []
    for one in results:
        low, high = one.success.interval
        rows.append(
            (
                NAMES[one.kind], one.mode, one.demonstrations,
                f"{one.success.done} of {one.success.tried} ({one.success.rate:.0%})",
                f"{low:.0%} to {high:.0%}", ", ".join(f"{rate:.0%}" for rate in one.by_seed),
                one.touched_another, f"{one.arm_l1:.3f}",
            )
        )  # fmt: skip
    return svg.table(heads, rows)


def _scripts(config: ClaimConfig) -> Iterator[str]:
    rows = []
    for name, count in scripts(config).items():
        low, high = count.interval
        rows.append((name, f"{count.done} of {count.tried}", f"{low:.0%} to {high:.0%}"))
    if rows:
        yield "<h2>Scripts on the same attempts</h2><p>The blind one goes where blocks are on "
        yield "average, the deaf one touches any block.</p>"
        yield svg.table(("script", "success", "95 %"), rows)


def _stage1(out: Path) -> Iterator[str]:
    """Validation of each pre-training, and its predictions."""
    yield "<h2>Stage 1</h2>"
    rows: list[Sequence[object]] = []
    for kind in STAGE1:
        file = out / "stage1" / kind / "summary.json"
        if file.is_file():
            summary = read(file)
            for dataset in sorted(set(summary["val_by_dataset"]) - {"all"}):
                rows.append((NAMES[kind], dataset, *_validation(summary, dataset)))
    heads = ("stage 1", "held out", "nats a code", "copying", "changed codes right",
             "own caption preferred", "PSNR", "last frame repeated")  # fmt: skip
    yield svg.table(heads, rows)
    for kind in STAGE1:
        yield from _figure(out / "stage1" / kind / "predictions.png", NAMES[kind])


def _validation(summary: dict[str, Any], dataset: str) -> Iterator[str]:
    """Cells of a row: the model and copying, what changes, captions, pictures."""
    later = summary["val_by_dataset"][dataset]["frames 1 and later"]
    for who in ("model", "copy last frame"):
        yield f"{later[who]['cross_entropy']:.3f}"
    dynamics = summary["dynamics"][dataset]
    for part, score in (("changed", "accuracy"), ("swapped", "right_preferred")):
        yield f"{dynamics[part][score]:.1%}" if dynamics[part] else ""
    pictures = summary["pictures"].get(dataset, {})
    for who in ("predicted", "last given repeated"):
        yield f"{pictures[who]['psnr_db']:.2f} dB" if who in pictures else ""


def _imagined(out: Path) -> Iterator[str]:
    """Next frames that the policy imagines whose GPT is frozen: it acts and predicts."""
    file = out / "imagined" / "scores.json"
    if file.is_file():
        yield "<h2>The policy of hands and robot video also imagines the next frame</h2>"
        yield svg.table(("", "PSNR"), list(_psnr(read(file))))
        yield from _figure(out / "imagined" / "pictures.png", "next frames")


def _psnr(scores: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, rows in scores.get("pictures", {}).items():
        for who, row in rows.get("all", {}).items():
            if isinstance(row, dict) and "psnr_db" in row:
                yield f"{name}: {who}", f"{row['psnr_db']:.2f} dB"


def _pictures(out: Path) -> Iterator[str]:
    yield "<h2>The pictures</h2><div class=cards>"
    for name in ("hands", "robot"):
        for file in sorted((out / "pictures" / name).glob("*.png"))[:PICTURES]:
            yield from _figure(file, name)
    yield "</div>"


def _figure(file: Path, words: str) -> Iterator[str]:
    if file.is_file():
        from PIL import Image

        with Image.open(file) as picture:
            shown = svg.inline(picture, words, 900, 900)
        yield f"<figure>{shown}<figcaption>{words}</figcaption></figure>"
