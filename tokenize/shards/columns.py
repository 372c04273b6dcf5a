"""Columns, blocks and arrays of an opened shard, read from the bytes where they lie."""

import io
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.errors import UserError
from handloom.tokenize.shards.format import ARRAYS, Integers

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
        self._starts = np.frombuffer(offsets, np.int32) if offsets else np.zeros(1, np.int32)
        self._data = memoryview(data) if data else memoryview(b"")

    def at(self, rows: Integers) -> list[str]:
        """The strings of some rows."""
        starts, ends, data = self._starts[rows], self._starts[rows + 1], self._data
        return [str(data[a:b], "utf8") for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]


def numbers(column: pa.ChunkedArray) -> Any:
    """A column without nulls as an array that shares the map; int64, int32 or uint16 [N]."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return array.to_numpy(zero_copy_only=True)


def load_npy(payload: bytes, where: str) -> Floats:
    """The array in an .npy payload; raises UserError where it is damaged."""
    try:
        array: Floats = np.load(io.BytesIO(payload), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{where}: {' or '.join(ARRAYS)} is damaged ({error}).") from None
    return array


def view_npy(member: npt.NDArray[np.uint8], where: str) -> Floats:
    """An .npy member as an array over the same bytes."""
    head = io.BytesIO(member[:4096].tobytes())
    try:
        np.lib.format.read_magic(head)
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
        if dtype != np.dtype("<f4"):
            raise ValueError(f"dtype {dtype}")
        array: Floats = member[head.tell() :].view(dtype).reshape(shape)
    except ValueError as error:
        raise UserError(f"{where}: {' or '.join(ARRAYS)} is damaged ({error}).") from None
    return array
