"""tf.train.Example without TensorFlow or protobuf: `parse` makes a dict of lists of one record.

    Example   { 1: Features }
    Features  { 1: map<string, Feature> }   each entry is a message { 1: key, 2: Feature }
    Feature   { 1: BytesList | 2: FloatList | 3: Int64List }, each { 1: repeated ... }

A field is a tag (field number << 3 | wire type) and a value; the wire type is 0 for a varint, 1 for
eight bytes, 2 for a length and as many bytes, 5 for four bytes. Numbers are packed into one value
of wire type 2, or stored one by one. Only wanted keys are decoded, and bytes are views of the
payload: images are not copied.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError

Values = list[memoryview] | NDArray[np.float32] | NDArray[np.int64]
"""Values of one key: bytes, floats or integers; an empty list where there are none."""

MAX_PACKED = 1 << 28
"""Most bytes of packed integers of one key; decoded they take up to eight times as much."""

MAX_FIELDS = 1 << 20
"""Most fields of one message, such as images of one key. A field of two bytes takes 200 as an
object, so that a record of zeros would fill the memory."""

_BYTES, _FLOATS, _INTS = 1, 2, 3
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_BLOCK = 1 << 20  # bytes of varints decoded at once; bounds the temporary arrays
_MAX_VARINT = 10

Field = tuple[int, int, int, int]  # field number, wire type, start and end of the value
Items = list[tuple[int, int, int]]  # wire type, start and end of the value


def parse(payload: bytes, wanted: Callable[[str], bool] | None = None) -> dict[str, Values]:
    """The values of an Example by key.

    Args:
        payload: bytes of the record.
        wanted: whether to decode a key; by default all are.

    Returns:
        For each wanted key that is there: memoryviews of the payload, float32 [N] or int64 [N].

    Raises:
        MediaError: the payload is not a well-formed Example.
    """
    view = memoryview(payload)
    values: dict[str, Values] = {}
    for number, wire, start, end in read_fields(view, 0, len(view)):
        if (number, wire) == (1, _LENGTH):
            for inner, inner_wire, a, b in read_fields(view, start, end):
                if (inner, inner_wire) == (1, _LENGTH):
                    _entry(view, a, b, wanted, values)
    return values


def _entry(
    view: memoryview,
    start: int,
    end: int,
    wanted: Callable[[str], bool] | None,
    values: dict[str, Values],
) -> None:
    """Put one entry of the map into `values`; a later entry of the same key replaces it."""
    name, feature = b"", (0, 0)
    for number, wire, a, b in read_fields(view, start, end):
        if (number, wire) == (1, _LENGTH):
            name = bytes(view[a:b])
        elif (number, wire) == (2, _LENGTH):
            feature = (a, b)
    try:
        key = name.decode()
    except UnicodeDecodeError:
        raise MediaError("the record is not a tf.train.Example: a key is not UTF-8") from None
    if wanted is None or wanted(key):
        values[key] = _feature(view, *feature)


def _feature(view: memoryview, start: int, end: int) -> Values:
    """Values of a Feature; of several lists the last counts."""
    kind = first = last = 0  # protobuf: of a field that is there twice the later one counts
    for number, wire, a, b in read_fields(view, start, end):
        if wire == _LENGTH and number in (_BYTES, _FLOATS, _INTS):
            kind, first, last = number, a, b
    items = [field[1:] for field in read_fields(view, first, last) if field[0] == 1]
    if kind == _FLOATS:
        return _floats(view, items)
    if kind == _INTS:
        return _ints(view, items)
    return [view[a:b] for wire, a, b in items if wire == _LENGTH]


def _floats(view: memoryview, items: Items) -> NDArray[np.float32]:
    parts = [view[a:b] for wire, a, b in items if wire in (_LENGTH, _FIXED32)]
    if any(len(part) % 4 for part in parts):
        raise MediaError("the record is damaged: a list of floats breaks off")
    return np.frombuffer(b"".join(parts), "<f4").astype(np.float32)


def _ints(view: memoryview, items: Items) -> NDArray[np.int64]:
    """Integers of a list: packed groups and single values are all varints, one after the other."""
    parts = [view[a:b] for wire, a, b in items if wire in (_LENGTH, _VARINT)]
    if sum(map(len, parts)) > MAX_PACKED:
        raise MediaError(f"the record has more than {MAX_PACKED} bytes of integers under one key")
    if any(len(part) and part[-1] >= 0x80 for part in parts):
        raise MediaError("the record is damaged: a list of integers breaks off")
    return varints(b"".join(parts))


def varints(packed: bytes) -> NDArray[np.int64]:
    """Integers of 1 to 10 bytes: 7 bits a byte, low bits first, the last byte below 128.

    Returns:
        int64 [N], two's complement: negative integers take 10 bytes.

    Raises:
        MediaError: an integer has more than 10 bytes, or the last one breaks off.
    """
    data = np.frombuffer(packed, np.uint8)
    blocks = []
    start = 0
    while start < len(data):
        block = data[start : start + _BLOCK]
        ends = np.flatnonzero(block < 0x80)
        if not len(ends):
            raise MediaError("the record is damaged: an integer breaks off")
        block = block[: ends[-1] + 1]
        blocks.append(_decode(block, ends))
        start += len(block)
    return np.concatenate(blocks) if blocks else np.empty(0, np.int64)


def _decode(block: NDArray[np.uint8], ends: NDArray[np.intp]) -> NDArray[np.int64]:
    """Integers of varints that fill the block; `ends` are the offsets of their last bytes."""
    if len(ends) == len(block):  # one byte each, as flags are: the common case
        return block.astype(np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if sizes.max() > _MAX_VARINT:
        raise MediaError("the record is damaged: an integer has more than 10 bytes")
    # Bits of byte i of an integer are shifted by 7 i, then the bytes of each are or-ed.
    position = np.arange(len(block)) - np.repeat(starts, sizes)
    bits = (block & 0x7F).astype(np.uint64) << (7 * position).astype(np.uint64)
    return np.bitwise_or.reduceat(bits, starts).view(np.int64)


def read_fields(view: memoryview, start: int, end: int) -> Iterator[Field]:
    """The fields of the message between two offsets; no value reaches beyond its end."""
    at, left = start, MAX_FIELDS
    while at < end:
        left -= 1
        tag = view[at]  # mostly one byte: field numbers below 16
        at += 1
        if tag >= 0x80:
            tag, at = _varint(view, at - 1, end)
        number, wire = tag >> 3, tag & 7
        if wire == _LENGTH:
            size, at = _varint(view, at, end)
            value_end = at + size
        elif wire == _VARINT:
            value_end = _varint(view, at, end)[1]
        elif wire in (_FIXED32, _FIXED64):
            value_end = at + (4 if wire == _FIXED32 else 8)
        else:
            raise MediaError(f"the record is not a tf.train.Example: wire type {wire}")
        if value_end > end or not number:
            raise MediaError("the record is not a tf.train.Example: a field reaches beyond it")
        if left < 0:
            raise MediaError(f"the record has more than {MAX_FIELDS} values under one key")
        yield number, wire, at, value_end
        at = value_end


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    """An unsigned integer and the offset after it."""
    value = 0
    for i in range(at, min(end, at + _MAX_VARINT)):
        byte = view[i]
        value |= (byte & 0x7F) << 7 * (i - at)
        if byte < 0x80:
            return value, i + 1
    raise MediaError("the record is not a tf.train.Example: an integer breaks off")
