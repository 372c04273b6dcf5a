"""MessagePack of columns, and bytes put together row by row, without an object a value.

A row's bytes come in pieces, which are columns (binary [N]) or bytes that are the same in all rows.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[np.int64]
Pieces = list[pa.Array | bytes]
SHORT = 1024  # headers of so many lengths are kept; captions and names are shorter


def messages(values: pa.Array) -> Pieces:
    """The messages of values without nulls.

    Raises:
        TypeError: of a type other than text, float64, and lists of those.
    """
    kind = values.type
    if pa.types.is_string(kind):
        if pc.all(pc.equal(values, values[0])).as_py():
            return [msgpack.packb(values[0].as_py())]
        return [headers(lengths(values), text_header), values.cast(pa.binary())]
    if pa.types.is_float64(kind):
        return [b"\xcb", fixed(_big_endian(values))]
    if pa.types.is_list(kind) and pa.types.is_float64(kind.value_type):
        return _float_lists(values)
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return [_rare_lists(values)]
    raise TypeError(f"no messages of {kind}")


def headers(counts: Numbers, header: Callable[[int], bytes]) -> pa.Array | bytes:
    """The header for each of some lengths."""
    most = int(counts.max())
    if most == counts.min():
        return header(most)
    if most < SHORT:
        return _short_headers(header).take(pa.array(counts))
    distinct, place = np.unique(counts, return_inverse=True)
    return pa.array(map(header, distinct.tolist()), pa.binary()).take(pa.array(place))


def text_header(length: int) -> bytes:
    """The header of a text of so many bytes."""
    message: bytes = msgpack.packb("x" * length)
    return message[: len(message) - length]


def list_header(length: int) -> bytes:
    """The header of a list of so many values."""
    header: bytes = msgpack.Packer().pack_array_header(length)
    return header


def map_header(fields: int) -> bytes:
    """The header of a map of so many fields."""
    header: bytes = msgpack.Packer().pack_map_header(fields)
    return header


def joined(pieces: Iterable[pa.Array | bytes]) -> pa.Array:
    """The rows' bytes, binary [N]; one piece at least is a column."""
    row: list[Any] = [b""]
    for piece in pieces:
        if isinstance(piece, bytes) and isinstance(row[-1], bytes):
            row[-1] += piece
        else:
            row.append(piece)
    scalars = [pa.scalar(one, pa.binary()) if isinstance(one, bytes) else one for one in row]
    return pc.binary_join_element_wise(*scalars, pa.scalar(b"", pa.binary()))


def lengths(values: pa.Array) -> Numbers:
    """Bytes of each string or binary, int64 [N]."""
    return np.asarray(pc.binary_length(values).to_numpy(), np.int64)


def fixed(bytes_nw: npt.NDArray[np.uint8]) -> pa.Array:
    """Rows of W bytes as binary [N]."""
    return _binary(bytes_nw, np.arange(len(bytes_nw) + 1) * bytes_nw.shape[1])


@lru_cache(maxsize=8)
def _short_headers(header: Callable[[int], bytes]) -> pa.Array:
    return pa.array(map(header, range(SHORT)), pa.binary())


def _float_lists(values: pa.Array) -> Pieces:
    counts = np.asarray(pc.list_value_length(values).to_numpy(), np.int64)
    flat = pc.list_flatten(values)
    bytes_n9 = np.empty((len(flat), 9), np.uint8)
    bytes_n9[:, 0] = 0xCB
    bytes_n9[:, 1:] = _big_endian(flat)
    return [headers(counts, list_header), _binary(bytes_n9, 9 * np.append(0, np.cumsum(counts)))]


def _big_endian(values: pa.Array) -> npt.NDArray[np.uint8]:
    """The bytes of float64s, most significant first: uint8 [N, 8]."""
    numbers = values.to_numpy().astype(">f8")
    return np.asarray(numbers.view(np.uint8).reshape(-1, 8))


def _binary(data: npt.NDArray[np.uint8], stops: Numbers) -> pa.Array:
    """A binary array over some bytes; `stops` has one more than there are values."""
    buffers = [None, pa.py_buffer(stops.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.binary(), len(stops) - 1, buffers)


def _rare_lists(values: pa.Array) -> pa.Array:
    """Messages of lists, most of which are empty."""
    filled = np.flatnonzero(pc.list_value_length(values).to_numpy())
    distinct: list[Any] = [[], *values.take(pa.array(filled)).to_pylist()]
    place = np.zeros(len(values), np.int64)
    place[filled] = np.arange(1, len(filled) + 1)
    return pa.array(map(msgpack.packb, distinct), pa.binary()).take(pa.array(place))
