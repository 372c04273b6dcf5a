"""Files inside uncompressed tars, named as if the tar were a folder: `part00.tar/clip_7.mp4`.

They are read where they lie: FFmpeg is given a range of the tar's bytes, nothing is unpacked. The
headers of a tar are read once by each process, and again when it has changed.
"""

import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from handloom.errors import MediaError

SUFFIX = ".tar"

# What tarfile raises on damaged headers: lengths beyond 64 bits, long names of long names.
DAMAGED = (tarfile.TarError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name there, where it begins and how long it is, bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Contents:
    """The files of a tar.

    Attributes:
        members: in the order of the tar; of one that breaks off also the file that it breaks in.
        error: why there may be more that cannot be found, or empty.
    """

    members: tuple[Member, ...]
    error: str = ""


def file_of(name: str) -> str:
    """The file on disk that a name means: the tar of a member, else itself."""
    before, mark, _ = name.partition(f"{SUFFIX}/")
    return f"{before}{SUFFIX}" if mark else name


def tar_of(path: Path) -> Path | None:
    """The tar that a path leads into; None for a file of its own."""
    if f"{SUFFIX}/" not in str(path):
        return None
    return next((p for p in path.parents if p.suffix == SUFFIX and p.is_file()), None)


def contents(tar: Path) -> Contents:
    """The files of a tar.

    Raises:
        MediaError: it cannot be opened, or is no uncompressed tar.
    """
    try:
        found = tar.stat()
    except OSError as error:
        raise MediaError(f"{tar.name}: cannot be opened ({error.strerror})") from None
    return _read(tar, found.st_size, found.st_mtime_ns)


def source_of(path: Path) -> str:
    """What FFmpeg opens for a path: the file, or a range of the tar that it lies in.

    Raises:
        MediaError: the tar holds no such file, or breaks off in it.
    """
    tar = tar_of(path)
    if tar is None:
        return os.fspath(path)
    name, size = path.relative_to(tar).as_posix(), tar.stat().st_size
    member = next((one for one in contents(tar).members if one.name == name), None)
    if member is None:
        raise MediaError(f"{name}: {tar.name} holds no such file")
    end = member.offset + member.size
    if end > size:
        raise MediaError(
            f"{name}: {tar.name} breaks off in it, with {max(0, size - member.offset):,} of its "
            f"{member.size:,} bytes: download the tar again"
        )
    return f"subfile,,start,{member.offset},end,{end},,:{os.fspath(tar)}"


@lru_cache(maxsize=64)
def _read(tar: Path, size: int, mtime_ns: int) -> Contents:
    members: list[Member] = []
    try:
        with tarfile.open(tar, "r:") as file:
            with suppress(*DAMAGED):
                members += _members(file)
            is_whole = file.offset < size and _ends_there(tar, file.offset)
    except (*DAMAGED, OSError) as failure:
        raise MediaError(
            f"{tar.name}: no uncompressed tar ({str(failure)[:80]}); download it again, or unpack "
            "it"
        ) from None
    last_byte = members[-1].offset + members[-1].size if members else 0
    if is_whole or last_byte > size:  # that file says itself that it breaks off
        return Contents(tuple(members))
    error = f"{tar.name} breaks off after {len(members)} files: download it again"
    return Contents(tuple(members), error)


def _members(file: tarfile.TarFile) -> Iterator[Member]:
    while (info := file.next()) is not None:
        if info.isreg() and info.sparse is None:
            yield Member(info.name.removeprefix("./"), info.offset_data, info.size)


def _ends_there(tar: Path, offset: int) -> bool:
    """Whether a tar has its closing block of zeros where no further header was found."""
    with open(tar, "rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
