"""Whole tables as columns, for stages that decide on many clips at a time.

A decision about a clip may hang on other clips (its duplicates, how often its video says the same),
and 100,000 decisions from stored numbers should take a second: both want columns, not rows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from handloom.stages.tables.parts import Table

Floats = npt.NDArray[np.float64]
GROUP_BYTES = 256 << 20  # of Parquet, read at a time: about 200,000 clips of the hands table


def bucket_groups(table: Table) -> Iterator[list[str]]:
    """The buckets of a table in order, several at a time: as many as fit in memory."""
    sizes: Counter[str] = Counter()
    for path in table.parts():
        sizes[path.name.split("-")[0]] += path.stat().st_size
    group: list[str] = []
    held = 0
    for bucket in sorted(sizes):
        if group and held + sizes[bucket] > GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(bucket)
        held += sizes[bucket]
    if group:
        yield group


def matched(left: pa.Table, right: pa.Table) -> pa.Table:
    """Of the rows of `right`, those of the clips in `left`, in its order.

    Raises:
        KeyError: a clip of `left` is not in `right`.
    """
    where = pc.index_in(left["clip_id"], value_set=right["clip_id"])
    if where.null_count:
        raise KeyError(pc.filter(left["clip_id"], pc.is_null(where))[0].as_py())
    return right.take(where)


def by_bucket(rows: pa.Table, bucket: pa.ChunkedArray) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each bucket, in the order of their ids."""
    names = np.asarray(bucket.to_pylist(), object)
    order = np.lexsort(
        (numbered(rows["clip_id"], ascending=True), numbered(bucket, ascending=True))
    )
    starts = np.flatnonzero(np.append(True, names[order][1:] != names[order][:-1])[: len(order)])
    sorted_rows = rows.take(pa.array(order))
    for start, stop in pairwise([*starts.tolist(), len(order)]):
        yield names[order[start]], sorted_rows.slice(start, stop - start)


def numbered(values: pa.ChunkedArray, ascending: bool = False) -> npt.NDArray[np.int64]:
    """Equal values have equal numbers; in ascending order if asked, which takes longer."""
    if ascending:
        ranks = pc.rank(values, sort_keys="ascending", tiebreaker="dense")
        return np.asarray(ranks.to_numpy(), np.int64)
    return np.asarray(values.combine_chunks().dictionary_encode().indices.to_numpy(), np.int64)


@dataclass(frozen=True)
class Frames:
    """Per-frame columns of many clips, as flat arrays.

    Args:
        table: one row a clip; its list columns hold one value a frame.
        like: a list column; all that are asked for have lists of the same lengths.
    """

    table: pa.Table
    like: str = "times_s"

    @cached_property
    def clip(self) -> npt.NDArray[np.int64]:
        """Of each frame, the row of its clip: int64 [frames]."""
        lengths = pc.list_value_length(self.table[self.like]).to_numpy()
        return np.repeat(np.arange(len(lengths)), lengths)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """One value a frame: float64 [frames]."""
        flat = pc.list_flatten(self.table[name])
        return np.asarray(flat.cast(pa.float64()).to_numpy())

    def count(self, of: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Of each clip, how many of its frames are in `of`."""
        return np.bincount(self.clip[of], minlength=self.table.num_rows)

    def share(self, holds: npt.NDArray[np.bool_], of: npt.NDArray[np.bool_]) -> Floats:
        """Of each clip, the share of its frames in `of` that `holds` is true for; 0 of none."""
        return np.asarray(self.count(of & holds) / np.maximum(self.count(of), 1))

    def largest(self, values: Floats, of: npt.NDArray[np.bool_]) -> Floats:
        """Of each clip, the largest value of its frames in `of`; 0 where it has none."""
        found = np.zeros(self.table.num_rows)
        np.maximum.at(found, self.clip[of], values[of])
        return found


def rank_within(keys: Sequence[npt.NDArray[np.int64]], order: npt.NDArray[np.int64]) -> Floats:
    """Of each row, how many rows of the same keys come before it in `order`."""
    by = np.lexsort((order, *keys))
    new = np.ones(len(by), bool)
    new[1:] = np.any([key[by][1:] != key[by][:-1] for key in keys], axis=0)
    start = np.maximum.accumulate(np.where(new, np.arange(len(by)), 0))
    rank = np.empty(len(by))
    rank[by] = np.arange(len(by)) - start
    return rank
