"""MessagePack of columns: every value of an Arrow array as its message, without an object a value."""

from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[np.int64]


def messages(values: pa.Array) -> pa.Array:
    """The messages of values without nulls, binary [N].

    Raises:
        TypeError: of a type other than text, float64, and lists of those.
    """
    kind = values.type
    if pa.types.is_string(kind):
        return joined(headers(lengths(values), _text_header), values.cast(pa.binary()))
    if pa.types.is_float64(kind):
        return _binary(_floats(values), np.arange(len(values) + 1) * 9)
    if pa.types.is_list(kind) and pa.types.is_float64(kind.value_type):
        counts = pc.list_value_length(values).to_numpy()
        stops = 9 * np.append(0, np.cumsum(counts))
        array = _binary(_floats(pc.list_flatten(values)), stops)
        return joined(headers(counts, msgpack.Packer().pack_array_header), array)
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return _rare(values)
    raise TypeError(f"no messages of {kind}")


def headers(counts: Numbers, header: Callable[[int], bytes]) -> pa.Array:
    """The header for each of some counts, of which few are distinct; binary [N]."""
    distinct, place = np.unique(counts, return_inverse=True)
    return pa.array([header(one) for one in distinct.tolist()], pa.binary()).take(pa.array(place))


def map_headers(counts: Numbers) -> pa.Array:
    """The headers of maps with so many fields, binary [N]."""
    return headers(counts, msgpack.Packer().pack_map_header)


def joined(*pieces: pa.Array | bytes) -> pa.Array:
    """Bytes put together row by row, binary [N]; `bytes` are the same in every row."""
    row = [pa.scalar(one, pa.binary()) if isinstance(one, bytes) else one for one in pieces]
    return pc.binary_join_element_wise(*row, pa.scalar(b"", pa.binary()))


def lengths(values: pa.Array) -> Numbers:
    """Bytes of each string or binary, int64 [N]."""
    return np.asarray(pc.binary_length(values).to_numpy(), np.int64)


def _text_header(length: int) -> bytes:
    """The header of a text of so many bytes."""
    message: bytes = msgpack.packb("x" * length)
    return message[: len(message) - length]


def _floats(values: pa.Array) -> npt.NDArray[np.uint8]:
    """Each float as nine bytes: 0xcb, then the number, most significant byte first."""
    bytes_n9 = np.empty((len(values), 9), np.uint8)
    bytes_n9[:, 0] = 0xCB
    bytes_n9[:, 1:] = values.to_numpy().astype(">f8").view(np.uint8).reshape(-1, 8)
    return bytes_n9


def _binary(data: npt.NDArray[np.uint8], stops: Numbers) -> pa.Array:
    """A binary array over some bytes; `stops` has one more than there are values."""
    buffers = [None, pa.py_buffer(stops.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(stops) - 1, buffers)


def _rare(values: pa.Array) -> pa.Array:
    """Messages of lists, most of which are empty."""
    filled = np.flatnonzero(pc.list_value_length(values).to_numpy())
    distinct: list[Any] = [[], *values.take(pa.array(filled)).to_pylist()]
    place = np.zeros(len(values), np.int64)
    place[filled] = np.arange(1, len(filled) + 1)
    return pa.array(map(msgpack.packb, distinct), pa.binary()).take(pa.array(place))
