"""TFRecord files without TensorFlow: `scan` finds the records of a file, `read` reads one of them.

Records follow each other with no header, footer or index: length (uint64), checksum of the length,
payload, checksum of the payload; all little endian. The checksum is CRC-32C, rotated and offset
("masked") so that checksums of data that hold checksums stay useful. google_crc32c is C: in Python
a record of 14 MB would take seconds.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from handloom.errors import MediaError
from handloom.stages.datasets.source import refuse_special

MAX_RECORD = 1 << 30
"""Largest payload, bytes; episodes of RT-1 and Bridge have 1 to 60 MB."""

_HEAD, _TAIL = 12, 4
_AGAIN = "download it again"


@dataclass(frozen=True)
class Place:
    """Place of a record in its file.

    Attributes:
        offset: of the payload, after the head of 12 bytes.
        length: of the payload, bytes; of a truncated record as its head states, or 0.
        error: why neither this record nor any after it can be read, or empty.
    """

    offset: int
    length: int
    error: str = ""


def scan(path: Path) -> Iterator[Place]:
    """The places of a file's records, from 12 bytes of each.

    A file that breaks off or whose framing is damaged ends with a Place that has an `error`:
    without a length the next record cannot be found.

    Raises:
        MediaError: the file is no TFRecord at all; the message says what it is.
    """
    _refuse_by_name(path)
    refuse_special(path)
    # Unbuffered, since a few bytes of each record are read far apart.
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        at = number = 0
        while at < size:
            head = os.pread(file.fileno(), _HEAD, at)
            place = _place(path, number, at, size, head)
            if place.error and not number:
                _refuse_by_content(path, os.pread(file.fileno(), 64, 0))
            yield place
            if place.error:
                return
            at = place.offset + place.length + _TAIL
            number += 1


def read(path: Path, offset: int, length: int) -> bytes:
    """One payload, at the offset and of the length that `scan` found.

    Raises:
        MediaError: the file ends before the record does, or the checksum does not match.
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
    if struct.unpack("<I", tail)[0] != masked_crc(payload):
        raise MediaError(
            f"{path.name}: the record at byte {offset} has another checksum than was written "
            f"with it, its bytes are damaged: {_AGAIN}"
        )
    return payload


def masked_crc(data: bytes) -> int:
    """The CRC-32C of data as TFRecord stores it: rotated right by 15 bits, plus 0xA282EAD8."""
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _place(path: Path, number: int, at: int, size: int, head: bytes) -> Place:
    """The place of record `number`, whose head lies at `at` in a file of `size` bytes."""
    offset = at + _HEAD
    cut = f"{path.name} breaks off inside record {number} at byte {size}: {_AGAIN}"
    if len(head) < _HEAD:
        return Place(offset, 0, error=cut)
    length, crc = struct.unpack("<QI", head)
    if crc != masked_crc(head[:8]):
        error = (
            f"{path.name}: the head of record {number} at byte {at} is damaged (checksum), what "
            f"follows cannot be found: {_AGAIN}"
        )
        return Place(offset, 0, error=error)
    if length > MAX_RECORD:
        error = (
            f"{path.name}: record {number} has {length} bytes, expected an episode of at most "
            f"{MAX_RECORD}; this is no file of episodes"
        )
        return Place(offset, 0, error=error)
    if offset + length + _TAIL > size:
        return Place(offset, length, error=cut)
    return Place(offset, length)


def _refuse_by_name(path: Path) -> None:
    if ".array_record" in path.name or path.name.endswith(".arrayrecord"):
        raise MediaError(
            f"{path.name} is in array_record format, expected tfrecord: download the tfrecord "
            "version of the dataset, or convert it with tensorflow_datasets (file_format=tfrecord)"
        )


def _refuse_by_content(path: Path, start: bytes) -> None:
    """Raise MediaError for a known other kind of file.

    To be called only if the first head is bad: a good length may look like any magic number.
    """
    kinds = {
        b"\x1f\x8b": "compressed with gzip, expected a plain TFRecord: unpack it with gunzip",
        b"version https://git-lfs": "a Git LFS pointer, not the data: fetch it with `git lfs pull`",
        b"<!DOCTYPE": f"a web page, not the data: {_AGAIN}",
        b"<?xml": f"the error message of a bucket, not the data: {_AGAIN}",
    }
    for magic, kind in kinds.items():
        if start.startswith(magic):
            raise MediaError(f"{path.name} is {kind}")
