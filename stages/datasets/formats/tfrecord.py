"""TFRecord files without TensorFlow: where the records lie, and one record at a time.

Records follow each other with no header, footer or index: length (uint64), checksum of the length,
payload, checksum of the payload; all little endian. The checksum is CRC-32C, rotated and shifted
("masked") so that the checksum of data that hold checksums stays useful. google_crc32c is C: in
Python a record of 14 MB would take seconds.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from handloom.errors import MediaError

MAX_RECORD = 1 << 30
"""Bytes of a payload; episodes of RT-1 and Bridge have 1 to 60 MB."""

_HEAD, _TAIL = 12, 4
_AGAIN = "download it again"


@dataclass(frozen=True)
class Place:
    """Where a record lies in its file.

    Attributes:
        offset: of the payload, behind the head of 12 bytes.
        length: of the payload; of a truncated record, what its head promises (0 if that is cut).
        truncated: the file ends inside this record, which is then the last one.
        fault: why the record cannot be read and why none is looked for behind it, or empty.
    """

    offset: int
    length: int
    truncated: bool = False
    fault: str = ""


def scan(path: Path) -> Iterator[Place]:
    """Walk the records of a file, reading 12 bytes of each.

    A file that breaks off or whose framing is damaged ends with a Place that has a `fault`: without
    a length there is no way to find the next record.

    Raises:
        MediaError: the file is no TFRecord at all; the message says what it is.
    """
    _refuse_by_name(path)
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        at = number = 0
        while at < size:
            head = os.pread(file.fileno(), _HEAD, at)
            place = _place(path, number, at, size, head)
            if place.fault and not number:
                _refuse_by_content(path, os.pread(file.fileno(), 64, 0))
            yield place
            if place.fault:
                return
            at = place.offset + place.length + _TAIL
            number += 1


def read(path: Path, offset: int, length: int, check: bool = True) -> bytes:
    """One payload, of the offset and length that `scan` told.

    Args:
        path: the file.
        offset: of the payload.
        length: of the payload.
        check: whether to compare its checksum.

    Raises:
        MediaError: the file ends before the record does, or the checksum is another one.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not (offset >= _HEAD and 0 <= length <= MAX_RECORD and offset + length + _TAIL <= size):
            raise MediaError(
                f"{path.name} has {size} bytes, the record at byte {offset} needs "
                f"{offset + length + _TAIL}: the file changed or was cut, {_AGAIN}"
            )
        file.seek(offset)
        payload, tail = file.read(length), file.read(_TAIL)
    if len(payload) < length or len(tail) < _TAIL:
        raise MediaError(f"{path.name} breaks off inside the record at byte {offset}: {_AGAIN}")
    if check and struct.unpack("<I", tail)[0] != masked_crc(payload):
        raise MediaError(
            f"{path.name}: the record at byte {offset} has another checksum than was written "
            f"with it, its bytes are damaged: {_AGAIN}"
        )
    return payload


def records(path: Path, check: bool = True) -> Iterator[bytes]:
    """All payloads of a file, one at a time. Raises MediaError at the first damaged one."""
    for place in scan(path):
        if place.fault:
            raise MediaError(place.fault)
        yield read(path, place.offset, place.length, check)


def masked_crc(data: bytes) -> int:
    """The checksum as TFRecord stores it."""
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _place(path: Path, number: int, at: int, size: int, head: bytes) -> Place:
    """What a head says; `at` is its offset, `number` the record's, `size` the file's."""
    offset = at + _HEAD
    cut = f"{path.name} breaks off inside record {number} at byte {size}: {_AGAIN}"
    if len(head) < _HEAD:
        return Place(offset, 0, truncated=True, fault=cut)
    length, crc = struct.unpack("<QI", head)
    if crc != masked_crc(head[:8]):
        fault = (
            f"{path.name}: the head of record {number} at byte {at} is damaged (checksum), what "
            f"follows cannot be found: {_AGAIN}"
        )
        return Place(offset, 0, fault=fault)
    if length > MAX_RECORD:
        fault = (
            f"{path.name}: record {number} has {length} bytes, expected an episode of at most "
            f"{MAX_RECORD}; this is no file of episodes"
        )
        return Place(offset, 0, fault=fault)
    if offset + length + _TAIL > size:
        return Place(offset, length, truncated=True, fault=cut)
    return Place(offset, length)


def _refuse_by_name(path: Path) -> None:
    if ".array_record" in path.name or path.name.endswith(".arrayrecord"):
        raise MediaError(
            f"{path.name} is in array_record format, expected tfrecord: download the tfrecord "
            "version of the dataset, or convert it with tensorflow_datasets (file_format=tfrecord)"
        )


def _refuse_by_content(path: Path, start: bytes) -> None:
    """Say what the file is. Only for a bad first head: a length may look like any magic number."""
    kinds = {
        b"\x1f\x8b": "compressed with gzip, expected a plain TFRecord: unpack it with gunzip",
        b"version https://git-lfs": "a Git LFS pointer, not the data: fetch it with `git lfs pull`",
        b"<!DOCTYPE": f"a web page, not the data: {_AGAIN}",
        b"<?xml": f"the error message of a bucket, not the data: {_AGAIN}",
    }
    for magic, kind in kinds.items():
        if start.startswith(magic):
            raise MediaError(f"{path.name} is {kind}")
