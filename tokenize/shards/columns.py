"""Columns, blocks and arrays of an opened shard, read from the bytes where they lie."""

import io
from collections import OrderedDict
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.errors import UserError
from handloom.tokenize.shards.format import ARRAYS, Integers

# What numpy raises where the header of an .npy payload is no literal of its own.
NPY_DAMAGE = (ValueError, TypeError, EOFError, OverflowError, SyntaxError, RecursionError,
              KeyError, TokenError)  # fmt: skip

Floats = npt.NDArray[np.float32]


class RecentBlocks:
    """The blocks last unpacked, of all packed shards together; the oldest leave."""

    def __init__(self, rows: int) -> None:
        self._room, self._held = rows, 0
        self._blocks: OrderedDict[tuple[object, str, int], tuple[dict[str, Any], int]]
        self._blocks = OrderedDict()

    def get(self, key: tuple[object, str, int]) -> dict[str, Any] | None:
        """The columns of a block, None where it left or never came."""
        if key not in self._blocks:
            return None
        self._blocks.move_to_end(key)
        return self._blocks[key][0]

    def keep(self, key: tuple[object, str, int], columns: dict[str, Any], rows: int) -> None:
        """Hold a block of so many rows."""
        self._blocks[key] = (columns, rows)
        self._held += rows
        while self._held > self._room and len(self._blocks) > 1:
            self._held -= self._blocks.popitem(last=False)[1][1]


class Strings:
    """A string column, read from the mapped buffers: 0.2 µs a value."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        empty = len(array) == 0
        _, offsets, data = (None, None, None) if empty else array.buffers()
        # pa.string() has int32 offsets: 2 GiB of text a shard
        starts = np.frombuffer(offsets, np.int32) if offsets else np.zeros(1, np.int32)
        self._starts = starts[array.offset : array.offset + len(array) + 1]
        self._data = memoryview(data) if data else memoryview(b"")
        ordered = bool((np.diff(self._starts) >= 0).all()) and self._starts[0] >= 0
        if array.null_count or not ordered or self._starts[-1] > len(self._data):
            raise ValueError("strings that do not lie in their column")

    def at(self, rows: Integers) -> list[str]:
        """The strings of some rows."""
        starts, ends, data = self._starts[rows], self._starts[rows + 1], self._data
        return [
            str(data[a:b], "utf8", "replace")
            for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
        ]


def numbers(column: pa.ChunkedArray) -> Any:
    """A column without nulls as an array that shares the map; int64, int32 or uint16 [N]."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return array.to_numpy(zero_copy_only=True)


def load_npy(payload: bytes, where: str) -> Floats:
    """The array in an .npy payload; raises UserError where it is damaged."""
    # Not np.load, which allocates whatever shape the header claims.
    return view_npy(np.frombuffer(payload, np.uint8), where).copy()


def view_npy(member: npt.NDArray[np.uint8], where: str) -> Floats:
    """An .npy member as an array over the same bytes."""
    head = io.BytesIO(member[:4096].tobytes())
    try:
        np.lib.format.read_magic(head)
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
        if dtype != np.dtype("<f4"):
            raise ValueError(f"dtype {dtype}")
        array: Floats = member[head.tell() :].view(dtype).reshape(shape)
    except NPY_DAMAGE as error:
        raise UserError(f"{where}: {' or '.join(ARRAYS)} is damaged ({error}).") from None
    return array
