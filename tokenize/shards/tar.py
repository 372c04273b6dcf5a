"""The tar around the members of a shard: constant headers, streaming, and a scan of what is there.

Times, owners and modes are constant, so equal samples give equal bytes. The archive ends with the
two empty blocks that POSIX asks for, and is not filled up to a tape record of 10,240 bytes.
"""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from handloom.errors import UserError

BLOCK = 512


@dataclass(frozen=True)
class Member:
    """A file inside a tar: the key before the first dot of its name, the rest, and its payload."""

    key: str
    name: str
    offset: int
    size: int


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member's payload.

    Raises:
        ValueError: size does not fit ustar's eleven octal digits (8 GiB).
    """
    if size >= 8**11:
        raise ValueError(f"{name} has {size:,} bytes, a member of a tar has at most 8 GiB")
    info = tarfile.TarInfo(name)  # no owner, no time
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def add(tar: BinaryIO, name: str, payload: bytes) -> None:
    """Append one member."""
    tar.write(header(name, len(payload)) + payload + bytes(-len(payload) % BLOCK))


@contextmanager
def streamed(tar: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """Append one member whose size is known only when the block ends."""
    start = tar.tell()
    tar.write(bytes(BLOCK))
    yield tar
    end = tar.tell()
    tar.write(bytes(-(end - start) % BLOCK))
    after = tar.tell()
    tar.seek(start)
    tar.write(header(name, end - start - BLOCK))
    tar.seek(after)


def finish(tar: BinaryIO) -> None:
    """Append the two empty blocks that end an archive."""
    tar.write(bytes(2 * BLOCK))


def scan(path: Path) -> Iterator[Member]:
    """Every member of a tar in order, without reading payloads.

    Raises:
        UserError: the file is no tar, or it was cut off.
    """
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                key, _, name = info.name.partition(".")
                if info.offset_data + info.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                yield Member(key, name, info.offset_data, info.size)
            end = tar.offset
    except tarfile.TarError as error:
        raise UserError(
            f"{path} is no whole tar ({error}); copy it again, or run `handloom curate` again."
        ) from None
    if end + BLOCK > size:  # tarfile takes a missing end for the end
        raise UserError(
            f"{path} was cut off after {size:,} bytes; copy it again, or run `handloom curate` "
            "again."
        )
