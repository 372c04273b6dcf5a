"""Whole tables as columns, for stages that decide on many clips at a time.

A decision may depend on other clips (duplicates, repeated texts), and 100,000 decisions from stored
numbers should take a second: both call for columns, not rows.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from handloom.stages.tables.parts import Table

Floats = npt.NDArray[np.float64]
GROUP_BYTES = 256 << 20  # of Parquet, read at a time: about 200,000 clips of the hands table


def bucket_groups(table: Table, most_bytes: int = GROUP_BYTES) -> Iterator[list[str]]:
    """The buckets of a table in order, in groups of up to so many bytes on disk."""
    sizes: Counter[str] = Counter()
    for path in table.parts():
        sizes[path.name.split("-")[0]] += path.stat().st_size
    group: list[str] = []
    held = 0
    for bucket in sorted(sizes):
        if group and held + sizes[bucket] > most_bytes:
            yield group
            group, held = [], 0
        group.append(bucket)
        held += sizes[bucket]
    if group:
        yield group


def matched(left: pa.Table, right: pa.Table) -> pa.Table:
    """Rows of `right` of the clips in `left`, in the order of `left`.

    Raises:
        KeyError: a clip of `left` is not in `right`.
    """
    # Columns of a bucket without rows have no type.
    ids, known = (table["clip_id"].cast(pa.string()) for table in (left, right))
    where = pc.index_in(ids, value_set=known)
    if where.null_count:
        raise KeyError(pc.filter(left["clip_id"], pc.is_null(where))[0].as_py())
    return right.take(where)


def by_bucket(rows: pa.Table, bucket: pa.ChunkedArray) -> Iterator[tuple[str, pa.Table]]:
    """The buckets with their rows, each in the order of the ids."""
    encoded = bucket.combine_chunks().dictionary_encode()
    names, place = np.unique(
        np.asarray(encoded.dictionary.to_pylist(), object), return_inverse=True
    )
    number = place[encoded.indices.to_numpy()].astype(np.int16)  # sorted in one pass over 16 bits
    order = np.argsort(number, kind="stable")
    ids = rows["clip_id"].take(pa.array(order)).combine_chunks()
    spans = list(pairwise([0, *np.cumsum(np.bincount(number, minlength=len(names))).tolist()]))
    for start, stop in spans:
        order[start:stop] = order[start:stop][pc.sort_indices(ids[start:stop]).to_numpy()]
    # Taken at once: the name of a part is a hash of bytes, which depend on how slices were cut.
    sorted_rows = rows.take(pa.array(order))
    for name, (start, stop) in zip(names.tolist(), spans, strict=True):
        yield name, sorted_rows.slice(start, stop - start)


def frequencies(values: pa.ChunkedArray) -> dict[str, int]:
    """How often each value comes, in the order in which they first come."""
    found = pc.value_counts(values)
    return dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True))


def numbered(values: pa.ChunkedArray, ascending: bool = False) -> npt.NDArray[np.int64]:
    """A number for each value, int64, equal for equal values; ascending takes longer."""
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
        """Row of each frame's clip, int64 [frames]."""
        return np.repeat(np.arange(len(self.stops)), self.stops - self.starts)

    @cached_property
    def stops(self) -> npt.NDArray[np.int64]:
        """Number of the frame behind each clip's last one, int64 [clips]."""
        lengths = pc.list_value_length(self.table[self.like]).to_numpy()
        return np.cumsum(lengths, dtype=np.int64)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Number of each clip's first frame, int64 [clips]."""
        return np.append(0, self.stops)[:-1]

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """Values of all frames, float64 [frames]."""
        flat = pc.list_flatten(self.table[name])
        return np.asarray(flat.cast(pa.float64()).to_numpy())

    def count(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Frames of each clip in the mask, int64 [clips]."""
        before = np.append(0, np.cumsum(mask))
        return np.asarray(before[self.stops] - before[self.starts])

    def share(self, holds: npt.NDArray[np.bool_], mask: npt.NDArray[np.bool_]) -> Floats:
        """Share of each clip's frames in the mask for which `holds` is true; 0 of none."""
        return np.asarray(self.count(mask & holds) / np.maximum(self.count(mask), 1))

    def largest(self, values: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
        """Largest value of each clip's frames in the mask; 0 where it has none."""
        largest = np.zeros(self.table.num_rows)
        np.maximum.at(largest, self.clip[mask], values[mask])
        return largest


def rank_within(keys: Sequence[npt.NDArray[np.int64]], order: npt.NDArray[np.int64]) -> Floats:
    """Number of rows with the same keys that come before each row in `order`, float64 [rows]."""
    by = np.lexsort((order, *keys))  # the last key sorts first: rows of one group lie together
    new = np.ones(len(by), bool)
    new[1:] = np.any([key[by][1:] != key[by][:-1] for key in keys], axis=0)
    start = np.maximum.accumulate(np.where(new, np.arange(len(by)), 0))
    rank = np.empty(len(by))
    rank[by] = np.arange(len(by)) - start
    return rank


@dataclass
class Total:
    """A sum of floats, exactly: neither their order nor how they are grouped matters."""

    parts: list[float] = field(default_factory=list)
    """Floats whose exact sum it is, the largest first."""

    def add(self, values: Floats) -> None:
        """Add values."""
        terms, self.parts = [*self.parts, *values.tolist()], []
        while (rest := math.fsum(chain(terms, (-part for part in self.parts)))) != 0.0:
            self.parts.append(rest)
            if not math.isfinite(rest):
                break

    def merge(self, other: "Total") -> None:
        """Add another sum."""
        self.add(np.array(other.parts))

    def __float__(self) -> float:
        return math.fsum(self.parts)


def distinct(rows: pa.Table) -> tuple[list[tuple[Any, ...]], npt.NDArray[np.int64]]:
    """The distinct rows of a table, in the order in which they come, and the number of each row."""
    pair = np.zeros(rows.num_rows, np.int64)
    for name in rows.column_names:
        number = numbered(rows[name])
        pair = pair * (number.max(initial=0) + 1) + number
    first, number = np.unique(pair, return_index=True, return_inverse=True)[1:]
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    named = rows.take(pa.array(first[order])).to_pydict()
    return list(zip(*named.values(), strict=True)), place[number]
