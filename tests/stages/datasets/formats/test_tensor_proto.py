"""TensorFlow's tensors are read from their serialised form."""

import struct

import numpy as np
import pytest

from handloom.errors import MediaError
from handloom.stages.datasets.formats import tensor_proto
from tests.helpers.tensor_protos import message, proto, varint


def test_tensors_come_back() -> None:
    for array, dtype in (
        (np.arange(24, dtype=np.uint8).reshape(2, 3, 4), 4),
        (np.array([[1.5, -2.0]], np.float32), 1),
        (np.array([-1, 2**40]), 9),
        (np.array([True, False]), 10),
        (np.zeros((0, 7), np.float32), 1),
        (np.array(2.5), 2),
    ):
        found = tensor_proto.parse(proto(array, dtype))
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        assert (found == array).all()
    assert tensor_proto.parse(proto(["a", "", "ä"], 7)).tolist() == [b"a", b"", "ä".encode()]


def test_single_values_have_fields_of_their_own() -> None:
    shape = message(2, message(2, b"\x08\x03"))
    packed = message(5, struct.pack("<3f", 1, 2, 3))
    assert tensor_proto.parse(b"\x08\x01" + shape + packed).tolist() == [1, 2, 3]
    unpacked = b"".join(b"\x2d" + struct.pack("<f", value) for value in (1, 2, 3))
    assert tensor_proto.parse(b"\x08\x01" + shape + unpacked).tolist() == [1, 2, 3]
    repeated = tensor_proto.parse(b"\x08\x0a" + shape + b"\x58\x01")  # one True for all
    assert repeated.tolist() == [True, True, True]


@pytest.mark.parametrize(
    "damaged",
    [
        b"\x08\x01" + message(2, message(2, b"\x08" + varint(10**12))) + message(4, b"abcd"),
        b"\x08\x01" + message(2, message(2, b"\x08" + varint(10**12))) + b"\x2d\x00\x00\x00\x00",
        b"\x08\x01" + message(2, message(2, b"\x08" + varint((1 << 64) - 1))) + message(4, b"abcd"),
        b"\x08\x01" + message(2, message(2, b"\x08\x01")) + message(4, b"abc"),
        b"\x08\x63" + message(2, message(2, b"\x08\x01")) + message(4, b"abcd"),
        b"\x08\x01" + message(2, message(2, b"\x08\x01") * 9) + message(4, b"abcd"),
        b"\x08\x01\x12\xff",
        b"\xff" * 12,
    ],
)
def test_damaged_tensors_are_refused(damaged: bytes) -> None:
    with pytest.raises(MediaError):
        tensor_proto.parse(damaged)
