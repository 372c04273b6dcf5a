"""The rows of single clips: read by id, from the one row group of each table that holds them."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from handloom.errors import RunError, UserError
from handloom.stages.media.runs import RecordedRun
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import READ_AGAIN, Table, Tables, open_tables
from handloom.stages.tables.reading import damage_named
from handloom.view.run import Run, Unknown

HEAVY = frozenset({"fingerprints", "codes", "state", "action", "idle", "steps_taken", "inputs"})
"""Columns that are read only where they are asked for by name."""

Values = dict[str, Any]
"""A row of a table: values by column."""


class ClipRows:
    """The clips of a run by id, and what opens their media. Threads may share it.

    Args:
        run: as the viewer sees it.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def recorded(self) -> RecordedRun:
        """Opens the run's media."""
        return RecordedRun(self.run.out)

    def stage(self, name: str) -> Stage | None:
        """A stage with the options of the run; None where run.yaml does not tell them."""
        try:
            return self.run.stages.get(name)
        except UserError:
            return None

    def knows(self, clip_id: str) -> bool:
        """Whether the run has taken in a clip of that id."""
        try:
            self.run.bucket_of(clip_id)
        except Unknown:
            return False
        return True

    def row(self, stage: str, clip_id: str, columns: Sequence[str] | None = None) -> Values | None:
        """A clip's row of a stage; None where there is none.

        Args:
            stage: name of a stage.
            clip_id: of the clip.
            columns: to read, of those that the table has; by default all that are not HEAVY.

        Raises:
            Unknown: the run holds no such clip.
            RunError: a part is damaged, or parts vanish again and again.
        """
        bucket = self.run.bucket_of(clip_id)
        tables: Tables = self.run.tables
        for _ in range(READ_AGAIN):
            try:
                return _row(tables[stage], bucket, clip_id, columns) if stage in tables else None
            except FileNotFoundError:
                tables = open_tables(self.run.out)  # parts are merged while a run goes on
        raise RunError(f"parts of {self.run.out / 'tables' / stage} vanish; load the page again.")

    def rows(self, clip_id: str) -> dict[str, Values]:
        """A clip's rows by stage, in the order of the data flow, without HEAVY columns."""
        found = ((stage, self.row(stage, clip_id)) for stage in self.run.tables)
        return {stage: row for stage, row in found if row is not None}


def _row(table: Table, bucket: str, clip_id: str, columns: Sequence[str] | None) -> Values | None:
    def chosen(names: Sequence[str]) -> list[str]:
        if columns is None:
            return [name for name in names if name not in HEAVY]
        return [name for name in columns if name in names]

    rows = (_row_in(path, clip_id, chosen) for path in reversed(table.parts(bucket)))
    return next(filter(None, rows), None)


def _row_in(
    path: Path, clip_id: str, chosen: Callable[[Sequence[str]], list[str]]
) -> Values | None:
    with damage_named(path), pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["clip_id"], use_threads=False)["clip_id"]
            at = pc.index(ids, clip_id).as_py()
            if at >= 0:
                names = chosen(file.schema_arrow.names)
                rows = file.read_row_group(group, columns=names, use_threads=False)
                row: Values = rows.slice(at, 1).to_pylist()[0]
                return row
    return None
