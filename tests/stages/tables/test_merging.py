"""Merging parts: the same rows, in fewer files, whenever the process dies."""

from contextlib import suppress
from pathlib import Path

import pytest

from handloom.stages.tables import merging
from handloom.stages.tables.merging import complete_merges, merge_parts
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Row
from tests.helpers.dying import dying

PRINT = "0123456789abcdef"


def filled(folder: Path, parts: int = 9, buckets: tuple[str, ...] = ("0a", "ff")) -> Table:
    table = Table(folder, PRINT)
    for bucket in buckets:
        for part in range(parts):
            rows = [Row(clip_id=f"{bucket}{part}{i}") for i in range(3)]
            table.write(bucket, f"batch{part}", rows, Row)
    return table


def ids(table: Table) -> list[str]:
    return sorted(row.clip_id for row in table.read(Row))


def test_the_rows_stay_and_the_parts_become_one_a_bucket(tmp_path: Path) -> None:
    table = filled(tmp_path)
    before = ids(table)
    merge_parts(table)
    assert ids(table) == before
    assert len(before) == 54
    assert [len(table.parts(bucket)) for bucket in ("0a", "ff")] == [1, 1]
    assert {row.clip_id[:2] for row in table.read(Row, "0a")} == {"0a"}


def test_few_parts_and_large_ones_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = filled(tmp_path / "few", parts=3)
    before = few.parts()
    merge_parts(few)
    assert few.parts() == before
    monkeypatch.setattr(merging, "SMALL_BYTES", 10)
    large = filled(tmp_path / "large")
    before = large.parts()
    merge_parts(large)
    assert large.parts() == before


def test_a_merged_part_stays_below_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = filled(tmp_path, parts=12, buckets=("0a",))
    size = table.parts()[0].stat().st_size
    monkeypatch.setattr(merging, "LARGE_BYTES", 5 * size - 1)
    before = ids(table)
    merge_parts(table)
    assert len(table.parts()) == 3
    assert ids(table) == before


@pytest.mark.parametrize("dies_at", range(1, 15))
def test_a_merge_that_dies_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """The process ends at any change it makes to the folder; a reader never sees a row twice."""
    table = filled(tmp_path, buckets=("0a",))
    before = ids(table)
    with dying(monkeypatch, dies_at) as changes, suppress(KeyboardInterrupt):
        merge_parts(table)
    assert (changes[0] >= dies_at) == (dies_at <= 13)  # two writes, nine parts, a name, the record
    assert ids(table) == before
    complete_merges(table)
    table.clear_stale()
    assert ids(table) == before
    assert not [path.name for path in tmp_path.iterdir() if path.suffix != ".parquet"]
