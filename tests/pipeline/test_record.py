"""Killed runs keep their count of computed clips, whenever they are killed."""

from pathlib import Path

import pytest

from handloom.pipeline.batches import from_the_last
from handloom.pipeline.record import Record
from handloom.stages.tables.merging import drop_repeated
from handloom.stages.tables.parts import Table, effort, read_marker
from handloom.stages.tables.rows import Row


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path, "f" * 64)


def write(table: Table, batch: str, *words: str) -> int:
    table.write("00", batch * 12, [Row(clip_id=word) for word in words], Row)
    return len(words)


def begun(table: Table, run: str) -> Record:
    record = Record(table, {"fingerprint": table.fingerprint}, run)
    record.begin()
    return record


def test_rows_written_after_the_last_marker_are_counted_by_the_next_run(table: Table) -> None:
    killed = begun(table, "first")
    killed.add(write(table, "a", "1", "2"))
    write(table, "b", "3", "4", "5")  # and killed before they were counted
    again = begun(table, "second")
    assert effort(table.folder)[0] == 5
    again.add(write(table, "c", "6"))
    again.finish()
    computed, _, last = effort(table.folder)
    assert (computed, last) == (6, 1)


def test_a_task_that_starts_again_within_a_run_goes_on_counting(table: Table) -> None:
    lost = begun(table, "one")
    lost.add(write(table, "a", "1", "2"))
    write(table, "b", "3")
    again = begun(table, "one")
    again.add(write(table, "c", "4"))
    again.finish()
    computed, _, last = effort(table.folder)
    assert (computed, last) == (4, 4)


def test_what_a_finished_marker_says(table: Table) -> None:
    record = begun(table, "one")
    record.add(write(table, "a", "1"))
    record.finish()
    assert read_marker(table.folder).keys() == {
        "fingerprint", "computed", "computed_last", "seconds", "spent", "finished", "stored",
    }  # fmt: skip
    assert read_marker(table.folder)["stored"] == 1


def test_rows_of_another_fingerprint_do_not_count(table: Table) -> None:
    begun(table, "one").add(write(table, "a", "1"))
    other = Table(table.folder, "e" * 64)
    begun(other, "two").finish()
    assert effort(other.folder)[0] == 0


def test_computing_again_what_was_finished_counts_again(table: Table) -> None:
    first = begun(table, "one")
    first.add(write(table, "a", "1", "2"))
    first.finish()
    table.clear()
    second = begun(table, "two")
    second.add(write(table, "a", "1", "2"))
    second.finish()
    assert effort(table.folder)[0] == 4


def test_rows_that_two_workers_wrote_are_kept_once(table: Table) -> None:
    write(table, "a", "1", "2", "3")
    write(table, "b", "3", "4")
    write(table, "c", "1", "2")
    drop_repeated(table, "clip_id")
    assert sorted(row.clip_id for row in table.read(Row)) == ["1", "2", "3", "4"]
    before = {path: path.stat().st_mtime_ns for path in table.parts()}
    drop_repeated(table, "clip_id")
    assert {path: path.stat().st_mtime_ns for path in table.parts()} == before


def test_a_stage_goes_on_in_the_bucket_that_was_begun_last() -> None:
    buckets = ["00", "01", "02", "03"]
    assert from_the_last(buckets, []) == buckets
    assert from_the_last(buckets, ["00", "02"]) == ["02", "03", "00", "01"]
    assert from_the_last(buckets, ["0f"]) == buckets
