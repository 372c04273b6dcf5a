"""The disk that the search for duplicates takes is foretold from the rows that it reads."""

from pathlib import Path

import pytest

from benchmarks.bench_duplicates_scale import PRINT, write_tables
from handloom.stages.duplicates.stage import Duplicates
from handloom.stages.tables.parts import Table


@pytest.mark.slow
def test_it_takes_about_what_is_foretold(tmp_path: Path) -> None:
    write_tables(tmp_path, 4000, 0.0)
    tables = {name: Table(tmp_path / "tables" / name, PRINT) for name in ("ingest", "hands")}
    most = 0
    for tasks in Duplicates().steps(tables):
        for task in tasks:
            task()
        files = (tmp_path / "tables" / "duplicates").rglob("*")
        most = max(most, sum(path.stat().st_size for path in files if path.is_file()))
    assert most == pytest.approx(Duplicates().work_bytes(tables), rel=0.1)
