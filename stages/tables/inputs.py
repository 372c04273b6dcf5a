"""What a stage reads of some clips, as columns, and which of its rows were made from other values.

A row carries a digest of what it was made from (the column `inputs`): of its clip's columns that
the stage reads, and of the rows that it reads of other tables. So a caption that was edited in an
annotation file costs one caption, and no codes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc

from handloom.stages.stage import Stage
from handloom.stages.tables.columns import matched
from handloom.stages.tables.digests import Digests, row_digests
from handloom.stages.tables.outcomes import coming
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import INPUTS, Footage, Row

HISTORY = {"error", "attempts"}  # how a row came about: no stage's rows depend on it


@dataclass(frozen=True)
class Inputs:
    """What a stage reads of some clips; row i of each table is of the same clip.

    Attributes:
        clips: the columns of the stage's type of clip row.
        clip_type: that type.
        read: rows of the tables that it reads, in its order, with their types.
    """

    clips: pa.Table
    clip_type: type[Footage]
    read: tuple[tuple[type[Row], pa.Table], ...]

    def digests(self) -> Digests:
        """A digest of each clip's values, int64 [clips]."""
        facts = self.clips.select(_depended_on(self.clip_type))
        others = [rows.select(_values(row_type)) for row_type, rows in self.read]
        return row_digests([facts, *others])

    def take(self, rows: pa.Array) -> "Inputs":
        """The clips with some numbers, in that order."""
        read = tuple((row_type, table.take(rows)) for row_type, table in self.read)
        return Inputs(self.clips.take(rows), self.clip_type, read)

    def slice(self, start: int, length: int) -> "Inputs":
        """Some clips that follow each other; their values are not copied."""
        read = tuple((row_type, table.slice(start, length)) for row_type, table in self.read)
        return Inputs(self.clips.slice(start, length), self.clip_type, read)

    def rows(self) -> list[tuple[Row, ...]]:
        """Each clip with its rows, as a stage is called with them."""
        tables = [(self.clip_type, self.clips), *self.read]
        columns = [[of(**row) for row in table.to_pylist()] for of, table in tables]
        return list(zip(*columns, strict=True))


def _depended_on(row_type: type[Row]) -> list[str]:
    """Columns of a clip that rows depend on: not its way here, nor where its file lies."""
    known = {f.name for f in fields(Row)}
    return [f.name for f in fields(row_type) if f.name not in known and not f.metadata]


def _values(row_type: type[Row]) -> list[str]:
    return [f.name for f in fields(row_type) if f.name not in HISTORY]


def read_inputs(stage: Stage, tables: Tables, bucket: str, clip_ids: pa.Array) -> Inputs:
    """What a stage reads of some clips of a bucket, in the order of the ids.

    Raises:
        KeyError: a clip has no row in a table that is read.
    """
    clips = pa.table({"clip_id": clip_ids})
    row_type = stage.input_type()

    def rows_of(name: str, row_type: type[Row]) -> pa.Table:
        names = [f.name for f in fields(row_type)]
        return matched(clips, tables[name].columns(names, [bucket]))

    read = tuple((of, rows_of(name, of)) for name, of in stage.reads.items())
    return Inputs(rows_of("ingest", row_type), row_type, read)


def outdated(stage: Stage, tables: Tables, bucket: str) -> pa.Array:
    """Ids of the clips that come to a stage and whose rows there were made from other values.

    The row of a clip that no longer comes is left alone: the file of an unmounted disk may be back
    tomorrow.
    """
    stored = tables[stage.name].columns(["clip_id", INPUTS], [bucket])
    come = coming(tables, stage.name, bucket)
    stored = stored.filter(pc.is_in(stored["clip_id"], value_set=come))
    ids = stored["clip_id"].combine_chunks()
    now = pa.array(read_inputs(stage, tables, bucket, ids).digests())
    return ids.filter(pc.not_equal(stored[INPUTS].combine_chunks(), now)).unique()


def all_outdated(stage: Stage, tables: Tables) -> Iterator[tuple[str, pa.Array]]:
    """Buckets of a stage's table that hold outdated rows, and the clips of these."""
    for bucket in tables[stage.name].buckets():
        if len(clip_ids := outdated(stage, tables, bucket)):
            yield bucket, clip_ids
