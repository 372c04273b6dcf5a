"""TensorFlow's TensorProto without TensorFlow: `parse` makes an array of its serialised form.

    TensorProto { 1: dtype, 2: TensorShape, 4: tensor_content, 5...: repeated values by type }
    TensorShape { 2: Dim, 3: unknown_rank }, Dim { 1: size }

Arrays are stored as their bytes (little endian, C order), strings one by one. Few values may be
stored in the field of their type instead; if they are fewer than the shape needs, the last one is
repeated.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets.formats import tf_example
from handloom.stages.datasets.formats.tf_example import read_fields

MAX_REPEATED = 1 << 16
"""Largest array that is filled by repeating a value: the repetition costs a file nothing."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_STRING = 7

# By the number of the type: its numpy type, the field of single values, how these are stored.
_TYPES: dict[int, tuple[str, int, str]] = {
    1: ("<f4", 5, "<f4"),
    2: ("<f8", 6, "<f8"),
    3: ("<i4", 7, "varint"),
    4: ("u1", 7, "varint"),
    5: ("<i2", 7, "varint"),
    6: ("i1", 7, "varint"),
    9: ("<i8", 10, "varint"),
    10: ("?", 11, "varint"),
}
_STRINGS_FIELD = 8


def parse(message: bytes | memoryview) -> NDArray[Any]:
    """The array of a TensorProto; strings are an array of bytes objects [N].

    Args:
        message: the serialised form, as `tf.io.serialize_tensor` makes it.

    Raises:
        MediaError: it is damaged or of another type, or the values do not fill the shape.
    """
    view = memoryview(message)
    dtype = 0
    shape: tuple[int, ...] = ()
    parts: dict[int, list[memoryview]] = {}
    for number, wire, start, end in read_fields(view, 0, len(view)):
        if (number, wire) == (1, _VARINT):
            dtype = int(tf_example.varints(bytes(view[start:end]))[0])
        elif (number, wire) == (2, _LENGTH):
            shape = _shape(view[start:end])
        else:
            parts.setdefault(number, []).append(view[start:end])
    if dtype == _STRING:
        strings = np.empty(len(parts.get(_STRINGS_FIELD, [])), object)
        strings[:] = [bytes(part) for part in parts.get(_STRINGS_FIELD, [])]
        return strings
    if dtype not in _TYPES or any(side < 0 for side in shape) or len(shape) > 8:
        raise MediaError(f"the record has a tensor {list(shape[:9])} of type {dtype}")
    values = _values(dtype, parts)
    count = math.prod(shape)
    if 0 < len(values) < count <= MAX_REPEATED:
        values = np.append(values, np.repeat(values[-1:], count - len(values)))
    if len(values) != count:
        raise MediaError(f"the record has {len(values)} values for a tensor {list(shape)}")
    return values.reshape(shape)


def _values(dtype: int, parts: dict[int, list[memoryview]]) -> NDArray[Any]:
    kind, field, stored = _TYPES[dtype]
    content = b"" if 4 not in parts else parts[4][-1]
    if not len(content):
        content = b"".join(parts.get(field, []))
        if stored == "varint":
            return tf_example.varints(content).astype(kind)
    if len(content) % np.dtype(kind).itemsize:
        raise MediaError("the record has a tensor that breaks off")
    return np.frombuffer(content, kind)


def _shape(message: memoryview) -> tuple[int, ...]:
    sides = []
    for number, wire, start, end in read_fields(message, 0, len(message)):
        if (number, wire) == (2, _LENGTH):
            side: memoryview = message[start:end]
            sizes = [
                int(tf_example.varints(bytes(side[a:b]))[0])
                for inner, kind, a, b in read_fields(side, 0, len(side))
                if (inner, kind) == (1, _VARINT)
            ]
            sides.append(sizes[-1] if sizes else 0)
    return tuple(sides)
