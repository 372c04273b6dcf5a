"""Parts that somebody deleted are named, with how to make them again."""

import os
from pathlib import Path

import pytest

from handloom.errors import UserError
from handloom.pipeline.commands import ReportCommand, StatusCommand, report, status
from handloom.pipeline.record import Record
from handloom.stages.tables.deleted import deleted_rows
from handloom.stages.tables.parts import Table
from tests.helpers.random_tables import random_run


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Table]:
    found = random_run(tmp_path, 3)
    for table in found.values():
        Record(table, {"fingerprint": table.fingerprint}, "run").finish()
    return found


def test_a_whole_table_is_not_named(tables: dict[str, Table]) -> None:
    assert not list(deleted_rows(tables))


def test_a_part_that_was_deleted(
    tables: dict[str, Table], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tables["hands"]
    before = table.row_count()
    table.parts()[0].unlink()
    gone = before - table.row_count()
    assert gone > 0
    sentence = f"hands: {gone:,} of {before:,} rows are gone, since parts in {table.folder} were"
    (said,) = deleted_rows(tables)
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
