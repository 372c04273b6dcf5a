"""Records, their Examples and pictures: what is read is what was written, or one clear error."""

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handloom.errors import MediaError
from handloom.stages.datasets.formats import tf_example as example
from handloom.stages.datasets.formats import tfrecord
from handloom.stages.datasets.formats.images import ArrayImages, EncodedImages
from handloom.stages.datasets.formats.tf_example import Values
from handloom.stages.miniatures.robots.views import jpeg

PAYLOADS = (b"first", b"", b"the third record")


def framed(payload: bytes) -> bytes:
    head, crc = struct.pack("<Q", len(payload)), tfrecord.masked_crc
    return head + struct.pack("<I", crc(head)) + payload + struct.pack("<I", crc(payload))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def payloads(path: Path) -> list[bytes]:
    """All payloads of a file; raises at the first damaged record, as an episode that is loaded."""
    found = []
    for place in tfrecord.scan(path):
        if place.error:
            raise MediaError(place.error)
        found.append(tfrecord.read(path, place.offset, place.length))
    return found


def test_checksums_are_those_of_published_files() -> None:
    # CRC-32C of "123456789" is E3069283; rotated right by 15 bits, plus a282ead8.
    rotated = (0xE3069283 >> 15 | 0xE3069283 << 17) & 0xFFFFFFFF
    assert tfrecord.masked_crc(b"123456789") == (rotated + 0xA282EAD8) & 0xFFFFFFFF
    # The head of bridge_dataset 1.0.0's first record: 144644 bytes, and the checksum of that.
    head = bytes.fromhex("04350200000000008c1fcfa2")
    assert struct.unpack("<QI", head) == (144644, tfrecord.masked_crc(head[:8]))


def test_records_come_back_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", b"".join(map(framed, PAYLOADS)))
    assert tuple(payloads(path)) == PAYLOADS
    places = list(tfrecord.scan(path))
    assert [(p.offset, p.length) for p in places] == [(12, 5), (33, 0), (49, 16)]
    assert tfrecord.read(path, 49, 16) == PAYLOADS[2]
    assert list(tfrecord.scan(write(tmp_path / "empty.tfrecord", b""))) == []


def test_a_file_cut_anywhere_keeps_its_whole_records_and_reports_the_rest(tmp_path: Path) -> None:
    whole = b"".join(map(framed, PAYLOADS))
    borders = [0, 21, 37, len(whole)]
    for size in range(len(whole)):
        places = list(tfrecord.scan(write(tmp_path / "a.tfrecord", whole[:size])))
        kept = sum(border <= size for border in borders) - 1
        assert [p.error for p in places[:kept]] == [""] * kept
        assert len(places) == kept + (size not in borders)
        if size not in borders:
            assert f"breaks off inside record {kept}" in places[-1].error


def test_no_flipped_bit_gives_another_payload(tmp_path: Path) -> None:
    whole = b"".join(map(framed, PAYLOADS))
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path = write(tmp_path / "a.tfrecord", bytes(damaged))
        with pytest.raises(MediaError, match=r"^a\.tfrecord"):
            payloads(path)


def test_a_damaged_payload_costs_one_record(tmp_path: Path) -> None:
    data = bytearray(b"".join(map(framed, PAYLOADS)))
    data[13] ^= 1
    path = write(tmp_path / "a.tfrecord", bytes(data))
    first, *rest = tfrecord.scan(path)
    with pytest.raises(MediaError, match="another checksum"):
        tfrecord.read(path, first.offset, first.length)
    assert [tfrecord.read(path, p.offset, p.length) for p in rest] == list(PAYLOADS[1:])


def test_a_damaged_head_ends_the_scan(tmp_path: Path) -> None:
    data = bytearray(b"".join(map(framed, PAYLOADS)))
    data[21] ^= 1
    first, second = tfrecord.scan(write(tmp_path / "a.tfrecord", bytes(data)))
    assert first.error == ""
    assert "head of record 1 at byte 21 is damaged" in second.error


def test_lengths_are_believed_up_to_a_bound(tmp_path: Path) -> None:
    head = struct.pack("<Q", 1 << 62)
    path = write(tmp_path / "a.tfrecord", head + struct.pack("<I", tfrecord.masked_crc(head)))
    (place,) = tfrecord.scan(path)
    assert "expected an episode of at most" in place.error
    for offset, length in ((12, 1 << 62), (12, 5), (0, 1), (12, -1)):
        with pytest.raises(MediaError, match=r"a\.tfrecord has 12 bytes"):
            tfrecord.read(path, offset, length)


def test_a_scan_seeks_over_payloads(tmp_path: Path) -> None:
    # A file of holes: reading its 3 GB takes seconds, and its checksums would not match.
    length = 1 << 30
    head = struct.pack("<Q", length)
    with (tmp_path / "a.tfrecord").open("wb") as file:
        for i in range(3):
            file.seek(i * (length + 16))
            file.write(head + struct.pack("<I", tfrecord.masked_crc(head)))
        file.truncate(3 * (length + 16))
    start = time.process_time()
    places = list(tfrecord.scan(tmp_path / "a.tfrecord"))
    assert time.process_time() - start < 0.1
    assert [(p.offset, p.length) for p in places] == [
        (i * (length + 16) + 12, length) for i in range(3)
    ]


@pytest.mark.parametrize(
    ("name", "start", "said"),
    [
        ("a.tfrecord", b"\x1f\x8b\x08\x00", "compressed with gzip"),
        ("a.tfrecord", b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"),
        ("a.tfrecord", b"<!DOCTYPE html><html>", "a web page"),
        ("a-train.array_record-00000-of-00001", b"", "array_record format, expected tfrecord"),
    ],
)
def test_other_files_are_named(tmp_path: Path, name: str, start: bytes, said: str) -> None:
    with pytest.raises(MediaError, match=said):
        list(tfrecord.scan(write(tmp_path / name, start + bytes(40))))


def test_a_length_may_look_like_gzip(tmp_path: Path) -> None:
    payload = bytes(0x8B1F)
    path = write(tmp_path / "a.tfrecord", framed(payload))
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert payloads(path) == [payload]


# tf.train.Example, encoded here in all the ways that protobuf allows.


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def feature(values: list[bytes] | list[int] | list[float], kind: int, packed: bool) -> bytes:
    if kind == 1:
        body = b"".join(field(1, v) for v in values if isinstance(v, bytes))
    elif kind == 2:
        floats = [struct.pack("<f", v) for v in values if not isinstance(v, bytes)]
        body = field(1, b"".join(floats)) if packed else b"".join(b"\x0d" + f for f in floats)
    else:
        ints = [varint(v) for v in values if isinstance(v, int)]
        body = field(1, b"".join(ints)) if packed else b"".join(b"\x08" + i for i in ints)
    return field(kind, body)


UNKNOWN = st.sampled_from(
    [b"", field(9, b"later"), b"\x78\x96\x01", b"\x7d" + bytes(4), b"\x79" + bytes(8)]
)
INTS = st.lists(st.integers(-(2**63), 2**63 - 1))
FLOATS = st.lists(st.floats(width=32, allow_nan=False))
VALUES = st.one_of(
    st.tuples(st.lists(st.binary(max_size=20)), st.just(1)),
    st.tuples(FLOATS, st.just(2)),
    st.tuples(INTS, st.just(3)),
)


Case = tuple[dict[str, tuple[Any, int]], bytes]  # values and kind by key, and their encoding


@st.composite
def examples(draw: st.DrawFn) -> Case:
    told = draw(st.dictionaries(st.text(max_size=8), VALUES, max_size=5))
    entries = []
    for key, (values, kind) in told.items():
        parts = [field(1, key.encode()), field(2, feature(values, kind, draw(st.booleans())))]
        entries.append(field(1, draw(UNKNOWN).join(draw(st.permutations(parts)))))
    return told, draw(UNKNOWN) + field(1, b"".join(draw(st.permutations(entries)))) + draw(UNKNOWN)


def plain(values: Values) -> list[object]:
    if isinstance(values, np.ndarray):
        return list(values.tolist())
    return [bytes(value) for value in values]


@given(examples())
def test_parse_gives_back_what_was_encoded(case: Case) -> None:
    told, payload = case
    found = example.parse(payload)
    assert {key: plain(values) for key, values in found.items()} == {
        k: v for k, (v, _) in told.items()
    }
    types = {1: list, 2: np.float32, 3: np.int64}
    for key, values in found.items():
        kind = values.dtype.type if isinstance(values, np.ndarray) else type(values)
        assert kind is types[told[key][1]]
    some = set(list(told)[::2])
    assert example.parse(payload, some.__contains__).keys() == some


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40), st.integers(1, 60))
def test_integers_are_decoded_across_blocks(values: list[int], block: int) -> None:
    packed = b"".join(map(varint, values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example, "_BLOCK", max(block, 10))
        assert example.varints(packed).tolist() == values


def complaint(payload: bytes) -> str:
    """What is said of a payload; any other exception fails the test."""
    try:
        example.parse(payload)
    except MediaError as error:
        return str(error)
    return "the record is fine"


@given(st.binary(max_size=60))
def test_any_bytes_give_values_or_one_error(payload: bytes) -> None:
    for data in (payload, field(1, payload), field(1, field(1, field(1, b"k") + payload))):
        assert complaint(data).startswith("the record")


@given(examples(), st.data())
def test_a_damaged_example_gives_values_or_one_error(case: Case, data: st.DataObject) -> None:
    payload = bytearray(case[1])
    for _ in range(data.draw(st.integers(1, 4)) if payload else 0):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    for damaged in (bytes(payload), bytes(payload[:cut])):
        assert complaint(damaged).startswith("the record")


@pytest.mark.parametrize(
    ("feature_bytes", "said"),
    [
        (field(3, field(1, b"\x80" * 10 + b"\x01")), "an integer has more than 10 bytes"),
        (field(3, field(1, b"\x01\x80")), "a list of integers breaks off"),
        (field(2, field(1, b"\0" * 7)), "a list of floats breaks off"),
        (field(1, field(1, b"abc")[:-1]), "a field reaches beyond it"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_damage_is_named(feature_bytes: bytes, said: str) -> None:
    payload = field(1, field(1, field(1, b"key") + field(2, feature_bytes)))
    with pytest.raises(MediaError, match=said):
        example.parse(payload)
    assert example.parse(payload, lambda key: key != "key") == {}  # not descended into


def test_pictures_are_views_and_counts_are_bounded() -> None:
    payload = field(1, field(1, field(1, b"image") + field(2, feature([b"abc"] * 3, 1, True))))
    found = example.parse(payload)["image"]
    assert isinstance(found[0], memoryview)
    assert found[0].obj is payload
    many = field(1, b"\x0a\x00" * (example.MAX_FIELDS + 1))  # would be objects of 200 MB
    with pytest.raises(MediaError, match="values under one key"):
        example.parse(field(1, field(1, field(1, b"image") + field(2, many))))
    assert list(example.parse(field(1, field(1, field(1, b"none") + field(2, b""))))["none"]) == []


def png(width: int, height: int, depth: int, colour: int) -> bytes:
    """A PNG file of a certain size and kind that ends inside its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(9)))]
    parts = [
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (jpeg(np.zeros((64, 64, 3), np.uint8))[:-200], "picture 0 of view cam is damaged"),
        (b"GIF89a" + bytes(20), "is neither JPEG nor PNG"),
        (b"", "begins with nothing"),
        (b"\xff\xd8\xff" + bytes(9), r"is damaged \(its header\)"),
        (png(16, 16, 16, 0), "16 bits a pixel"),
        (png(16, 16, 8, 2), "is damaged"),
        (png(9000, 9000, 8, 2), "claims 9000x9000 pixels"),
        (png(60000, 60000, 8, 2), "claims more than"),
    ],
)
def test_pictures_that_do_not_decode_are_named(file: bytes, said: str) -> None:
    with pytest.raises(MediaError, match=said):
        EncodedImages([file], "cam")[0]


def test_pictures_come_as_rgb() -> None:
    palette = Image.new("P", (4, 3))
    palette.putpalette([250, 10, 20])
    for image, colour in (
        (palette, [250, 10, 20]),
        (Image.new("L", (4, 3), 9), [9, 9, 9]),
        (Image.new("RGBA", (4, 3), (1, 2, 3, 4)), [1, 2, 3]),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        picture = EncodedImages([memoryview(buffer.getvalue())])[0]
        assert picture.shape == (3, 4, 3)
        assert picture.dtype == np.uint8
        assert picture[2, 3].tolist() == colour


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 4, 4, 1), (2, 0, 4, 3)])
def test_arrays_that_are_no_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError, match="expected pictures"):
        ArrayImages(np.zeros(shape, np.uint8))
