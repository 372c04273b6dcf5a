"""TensorFlow's tensors in their serialised form."""

from typing import Any


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def proto(array: Any, dtype: int) -> bytes:
    """A TensorProto as `tf.io.serialize_tensor` writes it."""
    if isinstance(array, list):
        strings = b"".join(message(8, text.encode()) for text in array)
        return b"\x08\x07" + message(2, message(2, b"\x08" + varint(len(array)))) + strings
    shape = b"".join(message(2, b"\x08" + varint(side)) for side in array.shape)
    return b"\x08" + varint(dtype) + message(2, shape) + message(4, array.tobytes())
