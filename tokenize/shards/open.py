"""An opened shard: where each sample's codes lie, its key, caption, metadata and arrays.

Both layouts have one interface. Nothing is read but the index until a sample is asked for.
"""

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.errors import UserError, first_line
from handloom.tokenize.shards import packed as shard_packed
from handloom.tokenize.shards import samples as shard_samples
from handloom.tokenize.shards.columns import (
    Floats,
    RecentBlocks,
    Strings,
    load_npy,
    numbers,
    view_npy,
)
from handloom.tokenize.shards.facts import fact_of, facts_of
from handloom.tokenize.shards.files import Files
from handloom.tokenize.shards.format import ARRAYS, FORMAT, Integers, check_version

# What columns and blocks raise that hold other values than they should.
_DAMAGED = (KeyError, IndexError, TypeError, ValueError, AttributeError)
_RECENT = RecentBlocks(rows=400_000)  # captions: about 100 MB


class OpenShard(Protocol):
    """One shard; rows are numbers of samples in it, int64 [B]."""

    def __len__(self) -> int: ...

    def places(self, rows: Integers) -> tuple[Integers, Integers]:
        """Offset of the codes in the tar, int64 [B], and their shapes, int64 [B, 4]."""

    def shapes(self) -> Integers:
        """Shapes of all samples' codes, int64 [N, 4]; [1, 4] where they are known to be alike."""

    def keys(self, rows: Integers) -> list[str]:
        """Clip ids."""

    def captions(self, rows: Integers) -> list[str]:
        """Captions."""

    def meta(self, row: int) -> dict[str, Any]:
        """All metadata of one sample."""

    def fact(self, name: str, row: int) -> Any:
        """`dataset` or `spacing_s` of one sample, from its metadata; None where it is not known."""

    def array(self, row: int, name: str) -> Floats | None:
        """`state` or `action` of one sample, float32 [T, ·]."""

    def intact(self, row: int) -> bool:
        """Compare one sample's bytes with the recorded checksum."""


def open_shard(
    files: Files, file: int, where: str, samples: int | None = None, index: pa.Table | None = None
) -> OpenShard:
    """Open a shard by its index.

    Args:
        files: of the split.
        file: its number there.
        where: its name, for messages.
        samples: that the manifest counts in it, where there is one.
        index: instead of the one beside the shard.

    Raises:
        UserError: the index is of a newer format, is no index, or does not fit the tar.
    """
    table = files.index(file) if index is None else index
    facts = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    if facts.get("format") != FORMAT or not facts.get("version", "").isdigit():
        raise UserError(f"the index of {where} is no index of a token shard; copy it again.")
    check_version(int(facts["version"]), f"the index of {where}")
    kind = PackedShard if facts.get("layout") == "packed" else SampleShard
    try:
        shard: OpenShard = kind(files, file, where, table)
    except (*_DAMAGED, OverflowError, RecursionError, pa.ArrowException) as error:
        raise UserError(
            f"the index of {where} is damaged ({type(error).__name__}: {first_line(error)}); copy "
            "it again, or run `handloom curate` again."
        ) from None
    if samples is not None and len(shard) != samples:
        raise UserError(
            f"the index of {where} has {len(shard)} samples, the manifest says {samples}; copy the "
            "whole shards folder again."
        )
    return shard


class SampleShard:
    """A shard of the layout `samples`."""

    def __init__(self, files: Files, file: int, where: str, table: pa.Table) -> None:
        self._files, self._file, self.where, self._table = files, file, where, table
        self._offsets = numbers(table["offset"])
        self._sizes = numbers(table["size"])
        self._shapes = [numbers(table[axis]) for axis in shard_samples.AXES]
        self._is_uniform = all((axis == axis[:1]).all() for axis in self._shapes)
        self._keys, self._captions = Strings(table["key"]), Strings(table["caption"])
        self._check_places()

    def __len__(self) -> int:
        return len(self._offsets)

    def places(self, rows: Integers) -> tuple[Integers, Integers]:
        """Offset of the codes in the tar, int64 [B], and their shapes, int64 [B, 4]."""
        shapes = np.stack([axis[rows] for axis in self._shapes], axis=1).astype(np.int64)
        return self._offsets[rows] + shard_samples.CODES_AT, shapes

    def shapes(self) -> Integers:
        """Shapes of all samples' codes, int64 [N, 4]; [1, 4] where they are alike."""
        rows = np.arange(1 if self._is_uniform else len(self))
        return self.places(rows)[1]

    def keys(self, rows: Integers) -> list[str]:
        """Clip ids."""
        return self._keys.at(rows)

    def captions(self, rows: Integers) -> list[str]:
        """Captions."""
        return self._captions.at(rows)

    def meta(self, row: int) -> dict[str, Any]:
        """All metadata of one sample, out of its member."""
        payload = self._payload(int(self._offsets[row]), int(self._sizes[row]))
        where = f"{self.where}, {self._table['key'][row]}"
        return dict(shard_samples.unpack(payload, where)["meta"])

    def fact(self, name: str, row: int) -> Any:
        """`dataset` or `spacing_s` of one sample, from its metadata; None where it is not known."""
        return fact_of(name, self.meta(row))

    def array(self, row: int, name: str) -> Floats | None:
        """`state` or `action` of one sample, float32 [T, ·]."""
        if name not in self._table.column_names:
            return None
        place = self._table[name][row].as_py()
        if place is None:
            return None
        return load_npy(self._payload(place["offset"], place["size"]), self.where)

    def intact(self, row: int) -> bool:
        """Compare one sample's members with the recorded checksum."""
        crc = zlib.crc32(self._payload(int(self._offsets[row]), int(self._sizes[row])))
        for name in ARRAYS:
            place = self._table[name][row].as_py() if name in self._table.column_names else None
            if place:
                crc = zlib.crc32(self._payload(place["offset"], place["size"]), crc)
        return bool(crc == self._table["crc32"][row].as_py())

    def _payload(self, offset: int, size: int) -> bytes:
        return self._files.view(self._file, offset, size).tobytes()

    def _check_places(self) -> None:
        """Check every range once, when the shard is opened: reads of codes check nothing."""
        size = self._files.size(self._file)
        # Mostly all have one shape, and one product tells of all.
        axes = [axis[:1] for axis in self._shapes] if self._is_uniform else self._shapes
        shapes = np.stack(axes).astype(np.float64)  # products of integers may overflow
        inside = (self._offsets >= 0) & (self._sizes >= 0) & (self._sizes <= size)
        inside &= self._offsets <= size - self._sizes
        inside &= (shapes >= 0).all(axis=0)
        inside &= 2 * shapes.prod(axis=0) + shard_samples.CODES_AT <= self._sizes
        if not inside.all():
            raise UserError(
                f"the index of {self.where} points outside of the tar, which has {size:,} bytes; "
                "copy both again, or run `handloom curate` again."
            )


class PackedShard:
    """A shard of the layout `packed`."""

    def __init__(self, files: Files, file: int, where: str, table: pa.Table) -> None:
        self._files, self._file, self.where = files, file, where
        self._members = {row["member"]: (row["offset"], row["size"]) for row in table.to_pylist()}
        self._samples = int(table.schema.metadata[b"samples"])
        self._shape = np.array(json.loads(table.schema.metadata[b"shape"]), np.int64)
        self._identity = object()  # a key of _RECENT that no other shard has
        self._tables: dict[str, tuple[int, Integers]] = {}
        self._arrays: dict[str, npt.NDArray[np.float32]] = {}
        self._facts: dict[tuple[str, int], Sequence[Any]] = {}  # by name and number of the block
        self._check_members()

    def __len__(self) -> int:
        return self._samples

    def places(self, rows: Integers) -> tuple[Integers, Integers]:
        """Offset of the codes in the tar, int64 [B], and their shapes, int64 [B, 4]."""
        start = self._members["tokens.npy"][0] + shard_packed.NPY_HEADER
        shapes = np.broadcast_to(self._shape, (len(rows), 4))
        return start + rows * 2 * int(self._shape.prod()), shapes

    def shapes(self) -> Integers:
        """Shape of the codes of each sample, int64 [1, 4]."""
        return self._shape[None]

    def keys(self, rows: Integers) -> list[str]:
        """Clip ids."""
        return self._column("clip_id", rows)

    def captions(self, rows: Integers) -> list[str]:
        """Captions."""
        return self._column("caption", rows)

    def meta(self, row: int) -> dict[str, Any]:
        """All metadata of one sample."""
        columns, at = self._block("meta.zst", row)
        with self._damage_named():
            fields = shard_packed.row_of(columns, at)
        fields.pop("crc32", None)
        return fields | {"caption": self.captions(np.array([row]))[0]}

    def fact(self, name: str, row: int) -> Any:
        """`dataset` or `spacing_s` of one sample, from its metadata; None where it is not known.

        A block of metadata takes milliseconds to unpack: the fact is kept of all its samples, in 8
        bytes each.
        """
        rows_a_block, _ = self._table("meta.zst")
        number, at = divmod(row, rows_a_block)
        if (name, number) not in self._facts:
            columns, _ = self._block("meta.zst", row)
            count = min(rows_a_block, self._samples - number * rows_a_block)
            with self._damage_named():
                self._facts[name, number] = facts_of(columns, name, count)
        found = self._facts[name, number][at]
        return found.item() if isinstance(found, np.generic) else found

    def intact(self, row: int) -> bool:
        """Compare one sample's codes, state and action with the recorded checksum."""
        start = int(self.places(np.array([row]))[0][0])
        codes = self._files.view(self._file, start, 2 * int(self._shape.prod()))
        crc = zlib.crc32(codes.tobytes())
        for array in (self.array(row, name) for name in ARRAYS):
            crc = crc if array is None else zlib.crc32(array.tobytes(), crc)
        columns, at = self._block("meta.zst", row)
        with self._damage_named():
            return bool(crc == columns["crc32"][at])

    def array(self, row: int, name: str) -> Floats | None:
        """`state` or `action` of one sample, float32 [T, ·]."""
        if f"{name}.npy" not in self._members:
            return None
        if name not in self._arrays:
            member = self._files.view(self._file, *self._members[f"{name}.npy"])
            self._arrays[name] = view_npy(member, self.where)
            if self._arrays[name].ndim != 3 or len(self._arrays[name]) != self._samples:
                shape = list(self._arrays.pop(name).shape)
                raise UserError(
                    f"{self.where}: {name} has shape {shape}, expected [{self._samples}, steps, "
                    "width]; copy the shard again."
                )
        array: Floats = self._arrays[name][row]
        return array

    def _column(self, name: str, rows: Integers) -> list[str]:
        blocks = (self._block("captions.zst", row) for row in rows.tolist())
        with self._damage_named():
            return [columns[name][at] for columns, at in blocks]

    def _block(self, member: str, row: int) -> tuple[dict[str, Any], int]:
        """The unpacked block of a row, and the row's place in it."""
        rows_a_block, ends = self._table(member)
        number, at = divmod(row, rows_a_block)
        key = (self._identity, member, number)
        columns = _RECENT.get(key)
        if columns is None:
            start, end = int(ends[number]), int(ends[number + 1])
            block = self._files.view(self._file, self._members[member][0] + start, end - start)
            columns = shard_packed.unpack_block(block.tobytes(), self.where)
            _RECENT.keep(key, columns, rows_a_block)
        return columns, at

    def _table(self, member: str) -> tuple[int, Integers]:
        """Rows a block of a member, and where its blocks begin and end."""
        if member not in self._tables:
            self._tables[member] = self._table_of(member)
        return self._tables[member]

    def _table_of(self, member: str) -> tuple[int, Integers]:
        offset, size = self._members[member]
        head = self._files.view(self._file, offset, 8).view("<u4")
        rows_a_block, count = int(head[0]), int(head[1])
        if rows_a_block < 1 or 16 + 8 * count > size or count * rows_a_block < self._samples:
            raise UserError(f"{self.where}: {member} is damaged; copy the shard again.")
        view = self._files.view(self._file, offset + 8, 8 * (count + 1))
        ends = view.view("<u8").astype(np.int64)
        if ends[0] < 0 or (np.diff(ends) < 0).any() or ends[-1] > size:
            raise UserError(f"{self.where}: {member} is damaged; copy the shard again.")
        return rows_a_block, ends

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGED:
            raise UserError(
                f"{self.where}: a block of captions or metadata is damaged; `handloom inspect "
                "--verify` names what is."
            ) from None

    def _check_members(self) -> None:
        size = self._files.size(self._file)
        places = self._members.get("tokens.npy", (0, -1))
        shape = self._shape.tolist()
        needed = shard_packed.NPY_HEADER + 2 * self._samples * math.prod(shape)
        inside = (0 <= at <= at + length <= size for at, length in self._members.values())
        if (
            self._samples < 0
            or len(shape) != 4
            or min(shape) < 0
            or places[1] != needed
            or not all(inside)
            or not {"captions.zst", "meta.zst"} <= set(self._members)
        ):
            raise UserError(
                f"the index of {self.where} does not fit the tar, which has {size:,} bytes; copy "
                "both again, or run `handloom curate` again."
            )
