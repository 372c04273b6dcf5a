"""TensorFlow's TensorProto without TensorFlow: one array from its serialised form.

    TensorProto { 1: dtype, 2: TensorShape, 4: tensor_content, 5...: repeated values by type }
    TensorShape { 2: Dim, 3: unknown_rank }, Dim { 1: size }

Arrays are stored as their bytes (little endian, C order), strings one by one, and what has a single
value may be stored as that, in the field of its type. If there are fewer values than the shape
asks for, the last is repeated.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets.formats import tf_example as example
from handloom.stages.datasets.formats.tf_example import fields_of

MAX_REPEATED = 1 << 16
"""Values that the repetition of the last one may fill; it costs a file nothing."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_STRING = 7

# By the number of the type: the type, the field of single values and how these are stored.
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
    """The array of a TensorProto; strings come as an array of bytes objects [N].

    Args:
        message: the serialised form, what `tf.io.serialize_tensor` makes.

    Raises:
        MediaError: it is damaged, of another type, or the values are not as many as the shape.
    """
    view = memoryview(message)
    dtype = 0
    shape: tuple[int, ...] = ()
    parts: dict[int, list[memoryview]] = {}
    for number, wire, start, end in fields_of(view, 0, len(view)):
        if (number, wire) == (1, _VARINT):
            dtype = int(example.varints(bytes(view[start:end]))[0])
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
    raw = b"" if 4 not in parts else parts[4][-1]
    if not len(raw):
        raw = b"".join(parts.get(field, []))
        if stored == "varint":
            return example.varints(raw).astype(kind)
    if len(raw) % np.dtype(kind).itemsize:
        raise MediaError("the record has a tensor that breaks off")
    return np.frombuffer(raw, kind)


def _shape(message: memoryview) -> tuple[int, ...]:
    sides = []
    for number, wire, start, end in fields_of(message, 0, len(message)):
        if (number, wire) == (2, _LENGTH):
            side: memoryview = message[start:end]
            sizes = [
                int(example.varints(bytes(side[a:b]))[0])
                for inner, kind, a, b in fields_of(side, 0, len(side))
                if (inner, kind) == (1, _VARINT)
            ]
            sides.append(sizes[-1] if sizes else 0)
    return tuple(sides)
