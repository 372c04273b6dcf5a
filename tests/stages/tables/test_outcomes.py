"""Counting by columns finds what a loop over the rows finds."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from handloom.errors import RunError
from handloom.pipeline.failures import FailedClip, failed_clips
from handloom.stages.pack.stage import Pack, kept_clips, kept_counts
from handloom.stages.stage import clip_order
from handloom.stages.tables import funnel
from handloom.stages.tables.columns import Total
from handloom.stages.tables.outcomes import coming
from handloom.stages.tables.parts import Table, Tables, listed
from handloom.stages.tables.rows import Clip, Row
from tests.helpers.random_tables import BUCKETS, random_run
from tests.helpers.recorded_runs import clip_row

SEEDS = range(6)


def rows_by_stage(tables: Tables, bucket: str) -> dict[str, dict[str, Row]]:
    """Rows of the clips that came to each stage, by clip: the last row of each."""
    found: dict[str, dict[str, Row]] = {}
    for name, table in tables.items():
        rows = {row.clip_id: row for row in table.read(Row, bucket)}
        if table.gate:
            passed = {i for i, row in found[table.gate].items() if row.status == "ok"}
            rows = {i: row for i, row in rows.items() if i in passed}
        found[name] = rows
    return found


def kept_ids(by_stage: dict[str, dict[str, Row]]) -> set[str]:
    """Clips that every stage let through."""
    return set.intersection(
        *({i for i, row in rows.items() if row.status == "ok"} for rows in by_stage.values())
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_the_funnel_counts_every_row(tmp_path: Path, seed: int) -> None:
    tables = random_run(tmp_path, seed)
    counted = funnel.count(tables, complete=False)
    ends, kept = Counter[str](), 0
    for name, count in counted.stages.items():
        rows = [row for b in BUCKETS for row in rows_by_stage(tables, b)[name].values()]
        status = Counter(row.status for row in rows)
        assert (count.entered, count.kept, count.failed) == (
            len(rows), status["ok"], status["failed"],
        )  # fmt: skip
        reasons = Counter(row.reason for row in rows if row.status == "rejected")
        assert count.rejected == reasons
        assert list(count.rejected) == list(reasons)  # ties are told in the order they came
    for bucket in BUCKETS:
        by_stage = rows_by_stage(tables, bucket)
        kept += len(kept_ids(by_stage))
        for clip_id in by_stage["ingest"]:
            ended = {rows[clip_id].status for rows in by_stage.values() if clip_id in rows}
            ends[next((s for s in ("failed", "rejected") if s in ended), "ok")] += 1
    assert (counted.kept, counted.failed, counted.rejected) == (
        kept, ends["failed"], ends["rejected"],
    )  # fmt: skip
    assert counted.ingested == ends.total()
    with pytest.raises(RunError, match="do not add up"):  # rows are missing
        counted.check()


@pytest.mark.parametrize("seed", SEEDS)
def test_kept_clips_are_those_that_every_stage_let_through(tmp_path: Path, seed: int) -> None:
    tables = random_run(tmp_path, seed)
    expected: dict[str, dict[str, int]] = {"train": {}, "val": {}}
    for bucket in BUCKETS:
        ids = kept_ids(rows_by_stage(tables, bucket))
        clips = [clip for clip in tables["ingest"].read(Clip, bucket) if clip.clip_id in ids]
        assert kept_clips(tables, bucket) == sorted(clips, key=clip_order)
        for split, count in Counter(clip.split for clip in clips).items():
            expected[split][bucket] = count
    assert kept_counts(tables, Pack()) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_clips_come_to_a_stage_through_all_gates(tmp_path: Path, seed: int) -> None:
    tables = random_run(tmp_path, seed)
    for bucket in BUCKETS:
        by_stage = rows_by_stage(tables, bucket)
        for name in ("hands", "select", "tokens"):
            passed = by_stage[tables[name].gate]
            ids = coming(tables, name, bucket).to_pylist()
            assert sorted(ids) == sorted(i for i, row in passed.items() if row.status == "ok")


def test_failed_clips_are_all_told_with_their_file(tmp_path: Path) -> None:
    tables = random_run(tmp_path, 0)
    paths = {clip.clip_id: clip.media_path for clip in tables["ingest"].read(Clip)}
    expected = [
        FailedClip(name, row.clip_id, paths[row.clip_id], row.attempts, row.error)
        for name, table in tables.items()
        for row in table.read(Row)
        if row.status == "failed"
    ]
    assert expected
    assert list(failed_clips(tables)) == expected


def test_a_video_in_both_splits_is_refused(tmp_path: Path) -> None:
    table = Table(tmp_path / "tables" / "ingest", "ab" * 32)
    rows = [
        clip_row(f"{n:020x}", n, n + 1.0, video_id=video, split=split)
        for n, (video, split) in enumerate([("b", "val"), ("c", "val"), ("c", "train"),
                                            ("b", "train"), ("a", "train")])
    ]  # fmt: skip
    table.write("00", "0", rows, Clip)
    with pytest.raises(RunError, match="video b has clips in train and in val"):
        kept_counts({"ingest": table}, Pack())


def test_parts_that_were_merged_after_the_listing_are_found(tmp_path: Path) -> None:
    tables = random_run(tmp_path, 1)
    found = listed(tables)
    for table in tables.values():
        for number, path in enumerate(table.parts()):
            path.rename(table.part(path.name.split("-")[0], f"moved{number}"))
    rows = {b: found["hands"].columns(["clip_id"], [b]).num_rows for b in BUCKETS}
    assert rows == {b: tables["hands"].columns(["clip_id"], [b]).num_rows for b in BUCKETS}


@pytest.mark.parametrize("seed", range(4))
def test_a_total_is_exact_however_it_is_grouped(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=999) * 10.0 ** rng.integers(-200, 200, 999)
    one_by_one, merged = Total(), Total()
    for value in rng.permutation(values):
        one_by_one.add(np.array([value]))
    for part in np.array_split(rng.permutation(values), 7):
        of_part = Total()
        of_part.add(part)
        merged.merge(of_part)
    assert one_by_one == merged
    assert float(merged) == math.fsum(values)
    merged.add(-values)
    assert merged == Total()
