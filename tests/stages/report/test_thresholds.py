"""What a threshold would keep is what a fresh `select` with that threshold keeps."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from handloom.stages.duplicates.rows import DuplicateRow
from handloom.stages.hands.rows import HandRow
from handloom.stages.media.clip_frames import whole
from handloom.stages.report.thresholds import Kept, Threshold, Thresholds, section
from handloom.stages.select import CLIP_COLUMNS, Select, SelectRow
from handloom.stages.tables.columns import matched
from handloom.stages.tables.parts import Tables, open_tables
from handloom.stages.tables.rows import Clip
from tests.helpers.recorded_runs import FLOW, clip_row, hands_row, write_run, write_table

CLIPS, FRAMES = 150, 8
FRAME_COLUMNS = "confidence", "brightness", "contrast", "sharpness", "flat_share"


def hands(clip: Clip, rng: np.random.Generator) -> HandRow:
    """A search with random measures: most frames are fine, in some clips most are not."""
    poor = rng.random(len(FRAME_COLUMNS)) < 0.1
    measures = {
        name: ((0.02 if bad else 0.3) + 0.7 * rng.random(FRAMES) * (not bad)).tolist()
        for name, bad in zip(FRAME_COLUMNS, poor, strict=True)
    }
    hits = rng.random(FRAMES) < rng.choice([0.0, 0.1, 0.3, 0.9])
    measures["confidence"] = np.where(hits, rng.choice([0.2, 0.5, 1.0], FRAMES), 0.0).tolist()
    measures["flat_share"] = rng.random(FRAMES).tolist()
    scores = dict(zip(("change", "bar_share", "stereo_score"), rng.random(3) * 0.6, strict=True))
    row: dict[str, Any] = {
        "times_s": np.linspace(clip.start_s, clip.end_s, FRAMES).tolist(),
        "detector_ran": (rng.random(FRAMES) < 0.9).tolist(),
        "shot_end_s": clip.start_s + float(rng.uniform(0.3, 1.0)) * (clip.end_s - clip.start_s),
    }
    return replace(hands_row(clip, whole(clip)), **row, **measures, **scores)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Random clips of five videos with few texts, and what the default `select` decides."""
    rng, out = np.random.default_rng(7), tmp_path_factory.mktemp("run")
    clips = [
        clip_row(f"{i:020x}", 3.0 * i, 3.0 * i + rng.uniform(1, 9), video_id=f"v{i % 5}",
                 text=f"#C C does {rng.integers(4)}")
        for i in range(CLIPS)
    ]  # fmt: skip
    alike = rng.random((CLIPS, 2)) * (rng.random((CLIPS, 2)) < 0.3)
    write_run(
        out,
        out,
        {
            "ingest": clips,
            "hands": [hands(clip, rng) for clip in clips],
            "duplicates": [
                DuplicateRow(clip_id=clip.clip_id, similarity=a, leak_similarity=b, matches=[])
                for clip, (a, b) in zip(clips, alike.tolist(), strict=True)
            ],
        },
    )
    return decided(out, Select())


def decided(out: Path, select: Select) -> Tables:
    """The run's tables, with what a stage decides."""
    flow = {name: gate for name, gate in FLOW.items() if name not in ("caption", "tokens")}
    rows = [row for _, part in select.rows(open_tables(out, flow)) for row in part.to_pylist()]
    write_table(out, "select", [SelectRow(**row) for row in rows])
    return open_tables(out, flow)


def thresholds(tables: Tables, select: Select) -> list[Threshold]:
    """The thresholds, counted in two parts of whole videos."""
    names = sorted({one.score for one in select.criteria()})
    rows = tables["select"].columns(["clip_id", *names])
    clips, found = matched(rows, tables["ingest"].columns(CLIP_COLUMNS)), Thresholds(select)
    of_first = pc.equal(clips["video_id"], "v0")
    for mask in (of_first, pc.invert(of_first)):
        part, some = Thresholds(select), rows.filter(mask)
        part.add({name: some[name].to_numpy() for name in names}, clips.filter(mask))
        found.merge(part)
    return found.found


def fresh(tables: Tables, select: Select) -> tuple[int, float]:
    """Clips and seconds that a run of the stage keeps."""
    rows = [row for _, part in select.rows(tables) for row in part.to_pylist()]
    kept = {row["clip_id"] for row in rows if row["status"] == "ok"}
    lengths = [c.end_s - c.start_s for c in tables["ingest"].read(Clip) if c.clip_id in kept]
    return len(kept), sum(lengths)


@pytest.mark.parametrize(
    "select",
    [
        Select(),
        Select(max_repeats=2, min_hand_share=0.33, max_flat_share=None),
        Select(lone_hand=True, max_similarity=None, min_confidence=0.6),
    ],
)
def test_every_step_keeps_what_a_fresh_select_keeps(tables: Tables, select: Select) -> None:
    tables = decided(tables["ingest"].folder.parents[1], select)
    found = thresholds(tables, select)
    differing = 0
    for one in found:
        assert one.present in [step.value for step in one.steps]
        for step in one.steps:
            changed: dict[str, Any] = {one.option: step.value}
            clips, seconds = fresh(tables, replace(select, **changed))
            assert (step.clips, step.seconds) == (clips, pytest.approx(seconds)), step
        differing += len({step.clips for step in one.steps}) > 1
    assert differing >= 9  # the random clips touch most thresholds


def test_every_option_that_rejects_has_its_steps(tables: Tables) -> None:
    options = {threshold.option for threshold in thresholds(tables, Select())}
    limits = {f.name for f in fields(Select) if f.name.startswith(("min_", "max_"))}
    assert options == limits - {"min_confidence"} | {"lone_hand"}


def test_the_present_value_is_marked_and_no_other() -> None:
    one = Threshold("min_hand_share", 0.1, [Kept(None, 9, 7200.0), Kept(0.1, 4, 3600.0)])
    text = "".join(section([one]))
    assert re.findall(r"<mark>(.*?)</mark><br>(\d+) clips<br>(\S+) h", text) == [("0.1", "4", "1")]
    assert "off<br>9 clips<br>2 h" in text
    assert "--select.min-hand-share" in text
