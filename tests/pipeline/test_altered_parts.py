"""Parts that somebody deleted, copied or put into a table's folder are named, with a way out."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handloom.errors import RunError, UserError
from handloom.pipeline.commands import ReportCommand, StatusCommand, report, status
from handloom.pipeline.record import Record
from handloom.stages.tables.altered import altered_rows
from handloom.stages.tables.folding import fold_parts
from handloom.stages.tables.merging import MANY, complete_merges, drop_repeated, merge_parts
from handloom.stages.tables.parts import Table, write_marker
from handloom.stages.tables.rows import Row
from tests.helpers.random_tables import random_run


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Table]:
    found = random_run(tmp_path, 3)
    for table in found.values():
        Record(table, {"fingerprint": table.fingerprint}, "run").finish()
    return found


def test_a_whole_table_is_not_named(tables: dict[str, Table]) -> None:
    assert not list(altered_rows(tables))


def test_a_part_that_was_deleted(
    tables: dict[str, Table], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tables["hands"]
    before = table.row_count()
    table.parts()[0].unlink()
    gone = before - table.row_count()
    assert gone > 0
    sentence = f"hands: {gone:,} of {before:,} rows are gone, since parts in {table.folder} were"
    (said,) = altered_rows(tables)
    assert said.startswith(sentence)
    assert "`handloom curate` with the same arguments" in said
    status(StatusCommand(tmp_path))
    assert sentence in capsys.readouterr().out
    with pytest.raises(UserError, match=f"^{sentence}"):
        report(ReportCommand(tmp_path))


def test_a_table_that_was_deleted(tables: dict[str, Table], tmp_path: Path) -> None:
    for path in tables["hands"].folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"^hands: its table is missing\. .* `handloom curate`"):
        report(ReportCommand(tmp_path))


def test_a_part_that_was_exchanged_is_counted_again(tables: dict[str, Table]) -> None:
    table = tables["hands"]
    first, second = table.parts()[:2]
    before = table.row_count()
    rows = [len(table.of_parts([path]).columns(["clip_id"])) for path in (first, second)]
    assert rows[0] != rows[1]
    os.replace(second, first)
    assert table.row_count() == before - rows[0]


READS: dict[str, Callable[[Table], object]] = {
    "read": lambda table: list(table.read(Row)),
    "columns": lambda table: table.columns(["clip_id", "status"]),
    "values": lambda table: table.values("clip_id"),
    "drop": lambda table: table.drop("clip_id", {"nobody"}),
    "row_count": lambda table: table.row_count(),
    "merge": merge_parts,
    "drop_repeated": lambda table: drop_repeated(table, "clip_id"),
}


@pytest.fixture
def plain(tmp_path: Path) -> Table:
    """A table of as many parts of a bucket as are merged, and folded."""
    table = Table(tmp_path / "plain", "f" * 64)
    for number in range(2 * MANY):
        table.write("00", f"{number:012x}", [Row(clip_id=f"c{number}")], Row)
    return table


def foreign_name(table: Table, bucket: str = "00") -> str:
    return f"{bucket}-{table.fingerprint[:12]}-0f.parquet"


@pytest.mark.parametrize("name", READS)
def test_a_file_of_other_columns_is_named(plain: Table, name: str) -> None:
    path = plain.folder / foreign_name(plain)
    pq.write_table(pa.table({"word": ["a", "b"]}), path)
    with pytest.raises(RunError, match=rf"{path.name} has no column '(clip_id|status)', so it is"):
        READS[name](plain)


def test_a_file_whose_columns_are_of_other_types_is_named(tables: dict[str, Table]) -> None:
    table = tables["hands"]
    path = table.folder / foreign_name(table)
    pq.write_table(pa.table({"clip_id": [1, 2], "status": ["ok", "ok"]}), path)
    with pytest.raises(RunError, match=rf"{path.name} .* column 'clip_id' as .*int64"):
        table.columns(["clip_id", "status"])


@pytest.mark.parametrize("use", [fold_parts, merge_parts])
def test_a_file_that_is_called_a_fold_and_is_none(
    plain: Table, use: Callable[[Table], object]
) -> None:
    path = plain.folder / f"00-{plain.fingerprint[:12]}-fold-3-0f.parquet"
    shutil.copy(plain.parts()[0], path)
    with pytest.raises(RunError, match=f"{path.name} is called a fold and is none"):
        use(plain)


def test_a_name_that_is_nearly_that_of_a_fold_is_one_like_others(plain: Table) -> None:
    path = plain.folder / f"00-{plain.fingerprint[:12]}-fold-x-y.parquet"
    os.replace(plain.parts()[0], path)
    rows = plain.row_count()
    assert fold_parts(plain) == rows
    merge_parts(plain)
    assert plain.row_count() == rows


@pytest.mark.parametrize("read", [*READS.values(), fold_parts])
def test_a_folder_in_the_place_of_a_part_is_named(
    plain: Table, read: Callable[[Table], object]
) -> None:
    path = plain.folder / foreign_name(plain)
    path.mkdir()
    with pytest.raises(RunError, match=rf"{path.name} is a folder, expected a Parquet file"):
        read(plain)


@pytest.mark.parametrize("name", ["part.parquet", "x.parquet.merging"])
def test_a_folder_in_the_place_of_a_remnant_is_named(tables: dict[str, Table], name: str) -> None:
    table = tables["hands"]
    (table.folder / name).mkdir()
    clean = complete_merges if name.endswith("merging") else Table.clear_stale
    with pytest.raises(RunError, match=rf"{name} is a folder, expected a Parquet file"):
        clean(table)


def test_a_remnant_of_a_merge_that_cannot_be_read_goes(tables: dict[str, Table]) -> None:
    table = tables["hands"]
    before = table.row_count()
    (table.folder / f"{foreign_name(table)}.merging").write_bytes(b"PAR1")
    complete_merges(table)
    assert not list(table.folder.glob("*.merging"))
    assert table.row_count() == before


def copied(table: Table, bucket: str) -> tuple[str, str]:
    """Copy a part of the bucket 3f into a bucket; returns the names of both."""
    part = table.parts("3f")[0]
    copy = table.folder / foreign_name(table, bucket)
    shutil.copy(part, copy)
    return part.name, copy.name


def test_a_part_that_was_copied(
    tables: dict[str, Table], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tables["tokens"]
    drop_repeated(table, "clip_id")
    Record(table, {"fingerprint": table.fingerprint}, "run").finish()
    before = table.row_count()
    names = copied(table, "3f")
    more = table.row_count() - before
    assert more > 0
    sentence = f"tokens: {more} rows more than the {before} of the run, since "
    (said,) = altered_rows(tables)
    assert said.startswith(sentence)
    assert all(name in said for name in names)
    assert "remove the copy, or `handloom curate` with the same arguments" in said
    status(StatusCommand(tmp_path))
    assert sentence in capsys.readouterr().out
    with pytest.raises(UserError, match=f"^{sentence}"):
        report(ReportCommand(tmp_path))


def test_a_part_that_was_copied_into_another_bucket(tables: dict[str, Table]) -> None:
    table = tables["tokens"]
    drop_repeated(table, "clip_id")
    Record(table, {"fingerprint": table.fingerprint}, "run").finish()
    copied(table, "aa")
    (said,) = altered_rows(tables)
    assert "of clips that it has no other rows of; remove the parts" in said


def test_what_was_copied_counts_as_the_work_of_others(tables: dict[str, Table]) -> None:
    """A stage that goes on, or that has ended, then keeps each clip once."""
    table = tables["tokens"]
    facts = {"fingerprint": table.fingerprint}
    assert not Record(table, facts, "run").resumes
    record = Record(table, facts, "run")
    record.begin()
    assert not record.has_strange_rows()
    copied(table, "3f")
    assert record.has_strange_rows()
    write_marker(table.folder, {**facts, "finished": True, "stored": record.rows})
    assert Record(table, facts, "other run").resumes
