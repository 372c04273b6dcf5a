"""What became of the clips of a bucket in every stage, as columns.

K distinct clips of a bucket are numbered once; what each stage says of them is an array of K. So a
pass over a million clips takes seconds, and memory depends on the bucket alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from handloom.errors import UserError
from handloom.stages.tables.parts import Table, Tables, listed

Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What one stage says of a bucket's clips.

    Attributes:
        table: the stage's rows of the bucket: clip_id, status, and the columns that were asked for.
        clip: number of each row's clip, int64 [rows].
        came: clips that came to the stage and have a row there, bool [K].
        ok: those that it let through, bool [K].
        failed: those that failed in it, bool [K].
    """

    table: pa.Table
    clip: Numbers
    came: Bools
    ok: Bools
    failed: Bools

    @property
    def rejected(self) -> Bools:
        """The clips that it rejected, bool [K]."""
        return self.came & ~self.ok & ~self.failed

    @cached_property
    def row(self) -> Numbers:
        """The row of each clip, int64 [K]: the last one, should there be several; -1 for none."""
        row = np.full(len(self.came), -1)
        row[self.clip] = np.arange(len(self.clip))
        return row

    def rows_of(self, clips: Bools) -> Numbers:
        """Rows of some clips in the order of the table, one a clip, int64 [clips]."""
        mask = clips[self.clip]
        if mask.sum() > clips.sum():  # a clip has several rows: the first place, the last values
            first = np.sort(np.unique(self.clip, return_index=True)[1])
            clip = self.clip[first]
            return self.row[clip[clips[clip]]]
        return np.flatnonzero(mask)


@dataclass(frozen=True)
class Outcomes:
    """What all stages say of a bucket's clips.

    Attributes:
        bucket: two hex digits.
        clip_ids: distinct ids, [K].
        stages: by name, in the order of the data flow.
    """

    bucket: str
    clip_ids: pa.Array
    stages: dict[str, Outcome]

    @property
    def kept(self) -> Bools:
        """The clips that passed every stage, bool [K]."""
        kept: Bools = np.logical_and.reduce([one.ok for one in self.stages.values()])
        return kept


Columns = Mapping[str, Sequence[str]]
"""Columns to read of the tables, by stage; of one that is not named only the status is read."""


def all_outcomes(tables: Tables, columns: Columns) -> Iterator[Outcomes]:
    """The outcomes of all buckets, one bucket at a time; each folder is listed once."""
    found = listed(tables)
    for bucket in found["ingest"].buckets():
        yield outcomes(found, bucket, columns)


def outcomes(tables: Tables, bucket: str, columns: Columns) -> Outcomes:
    """The outcomes of a bucket's clips.

    Raises:
        UserError: a table without a gate, of a run that an earlier version wrote.
    """
    rows = {name: _read(table, name, bucket, columns) for name, table in tables.items()}
    ids = [table["clip_id"].cast(pa.string()).combine_chunks() for table in rows.values()]
    numbered = pa.concat_arrays(ids).dictionary_encode()
    numbers = numbered.indices.to_numpy().astype(np.int64)
    stages: dict[str, Outcome] = {}
    start = 0
    for name, table in tables.items():
        stop = start + rows[name].num_rows
        gate = stages[table.gate].ok if table.gate else None
        count = len(numbered.dictionary)
        stages[name] = _outcome(rows[name], numbers[start:stop], count, gate)
        start = stop
    return Outcomes(bucket, numbered.dictionary, stages)


def coming(tables: Tables, stage: str, bucket: str) -> pa.Array:
    """Ids of the clips that come to a stage, each once: its gate let them through, and so on."""
    gates = _way(tables, tables[stage].gate)
    found = outcomes({name: tables[name] for name in gates}, bucket, {})
    return found.clip_ids.filter(pa.array(found.stages[gates[-1]].ok))


def passed(tables: Tables, stage: str, buckets: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Columns of a stage's rows of some buckets: of the clips that came to it and were `ok` there.

    Rows of clips that no longer come to it are left out, if its gate is known.
    """
    parts = []
    for bucket in buckets:
        rows = tables[stage].columns(list({*columns, "clip_id", "status"}), [bucket])
        rows = rows.filter(pc.equal(rows["status"], "ok"))
        if tables[stage].gate:
            come = coming(tables, stage, bucket)
            rows = rows.filter(pc.is_in(rows["clip_id"], value_set=come))
        parts.append(rows)
    return pa.concat_tables(parts).select(list(columns))


def _way(tables: Tables, stage: str) -> list[str]:
    """A stage and the gates on the way to it, in the order of the data flow."""
    way = [stage]
    while tables[way[0]].gate:
        way.insert(0, tables[way[0]].gate)
    return way


def _read(table: Table, name: str, bucket: str, columns: Columns) -> pa.Table:
    if name != "ingest" and not table.gate:
        raise UserError(
            f"{table.folder.parent} does not say which clips come to {name}, since an earlier "
            "version wrote it; run the same command again, nothing is computed anew."
        )
    return table.columns(
        list(dict.fromkeys(["clip_id", "status", *columns.get(name, ())])), [bucket]
    )


def _outcome(rows: pa.Table, clip: Numbers, count: int, gate: Bools | None) -> Outcome:
    came = np.zeros(count, bool)
    came[clip] = True
    if gate is not None:
        came &= gate
    ok, failed = (came & _has_status(rows, clip, count, name) for name in ("ok", "failed"))
    return Outcome(rows, clip, came, ok, failed)


def _has_status(rows: pa.Table, clip: Numbers, count: int, status: str) -> Bools:
    """Clips whose last row has a status, bool [K]."""
    has = np.zeros(count, bool)
    if rows.num_rows:
        has[clip] = pc.fill_null(pc.equal(rows["status"], status), False).to_numpy()
    return has
