"""Files that are whole or absent: written under a temporary name, synced, renamed.

An object store cannot rename: its files are written on this node's disk, and uploaded under their
own name when they are complete.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from handloom.copies import copies
from handloom.errors import unwritable
from handloom.listings import forget_listings
from handloom.places import StorePath


@contextmanager
def whole(path: Path, suffix: str = "", sync: bool = True) -> Iterator[Path]:
    """Write a file or folder under a temporary name; it gets its own when it is complete.

    What is renamed has reached the disk first, so that a power cut leaves no name without bytes.
    If the body raises, `path` stays as it was and the temporary is removed.

    Raises:
        DiskError: the disk is full, read-only or closed to this user.

    Args:
        path: a file, or a folder if the body makes one; one that exists is replaced.
        suffix: ending of the temporary name, for writers that choose a format by it.
        sync: wait for the disk. Without it a power cut, but no killed process, may leave a name
            without bytes: for thousands of small files that a marker completes, see `sync_tree`.

    Yields:
        The temporary path, beside `path`; of one in a store on this node's disk.
    """
    if isinstance(path, StorePath):
        with _told_of(path), copies().temporary(f"{path.name}{suffix}") as temporary:
            yield temporary
            _upload(temporary, path)
        return
    temporary = path.with_name(f"{path.name}.{uuid4().hex[:8]}.tmp{suffix}")
    with _told_of(path), _removed_on_error(temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        publish(temporary, path, sync)


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Turns the errors of a full or closed disk into a sentence about a file."""
    try:
        yield
    except OSError as error:
        told = unwritable(path, error)
        raise told from (None if told is not error else error.__cause__)


@contextmanager
def _removed_on_error(temporary: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise


def publish(temporary: Path, path: Path, sync: bool = True) -> None:
    """Give a complete file or folder its name, once its bytes are on the disk."""
    if sync:
        sync_tree(temporary)
    if temporary.is_dir():
        shutil.rmtree(path, ignore_errors=True)  # a folder cannot be renamed onto a full one
    os.replace(temporary, path)
    if sync:
        _sync(path.parent)


def _upload(source: Path, path: StorePath) -> None:
    """Upload a file, or the files of a folder in the order of their names.

    Each of them appears whole, but not all at once: readers look for one that is written last.
    """
    if not source.is_dir():
        path.upload(source)
        return
    for child in sorted(source.iterdir()):
        _upload(child, path / child.name)


def rename(path: Path, target: Path) -> None:
    """Give a file another name, in the place of one that has it."""
    if isinstance(path, StorePath) and isinstance(target, StorePath):
        path.move(target)
    else:
        os.replace(path, target)


def write_bytes(path: Path, content: bytes, sync: bool = True) -> None:
    """Write a file whole or not at all; `sync` as in `whole`."""
    if isinstance(path, StorePath):
        path.write_bytes(content)
        return
    with whole(path, sync=sync) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Write a text file (UTF-8, line ends as they are), whole or not at all."""
    write_bytes(path, text.encode(), sync)


def remove_temporaries(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder; nobody else may be writing."""
    if isinstance(folder, StorePath):
        return  # nothing of it is visible
    for path in folder.glob("*.tmp*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, also in a store."""
    if not isinstance(folder, StorePath):
        shutil.rmtree(folder, ignore_errors=True)
        return
    forget_listings(folder)
    for path in list(folder.glob("*")):
        remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sync_tree(path: Path) -> None:
    """Wait until the disk holds a file, or a folder with all that is in it."""
    if path.is_dir():
        for child in path.iterdir():
            sync_tree(child)
    _sync(path)


def _sync(path: Path) -> None:
    """Wait until the disk holds a file's bytes, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """SHA-256 of a file; of one over 64 MB that of its size and 16 evenly spaced megabytes."""
    size, megabyte = path.stat().st_size, 1 << 20
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= 64 * megabyte:
            digest.update(file.read())
        else:
            for i in range(16):
                file.seek((size - megabyte) * i // 15)
                digest.update(file.read(megabyte))
    return digest.hexdigest()


def read_facts(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where there is no file, or something else in it."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
