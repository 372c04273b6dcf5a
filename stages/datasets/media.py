"""Functions that adapters share: finding media files, reading CSV, keeping what is parsed."""

import codecs
import csv
import os
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import IO, Any, TypeVar

from handloom.errors import UserError
from handloom.places import Entry, scandir

T = TypeVar("T")

VIDEO_SUFFIXES = frozenset({".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg"})


def files_below(
    root: Path, folder: Path, suffixes: Iterable[str], skip_folders: Container[str] = ()
) -> Iterator[str]:
    """Paths of media files anywhere below a folder, relative to the root, with forward slashes.

    One pass of `os.scandir`, sorted within each folder; suffixes are compared in lower case.
    Folders named in `skip_folders` are left out, which spares listing millions of extracted frames.
    Links are followed, even out of the root: only names are read here, and ingest refuses to open
    such a file unless --ingest.follow-links is given.

    Raises:
        UserError: a folder cannot be read.
    """
    wanted = tuple(suffixes)
    waiting = [folder]
    visited: set[tuple[int, int]] = set()  # else links in a circle would never end
    while waiting:
        here = waiting.pop()
        stat = here.stat()
        if (stat.st_dev, stat.st_ino) in visited:
            continue
        visited.add((stat.st_dev, stat.st_ino))
        prefix = here.relative_to(root).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        for entry in _entries(here):
            if _is_folder(entry):  # known from the listing, without a stat for each of its entries
                if entry.name in skip_folders or entry.name == "lost+found":
                    continue
                waiting.append(here / entry.name)
            elif entry.name.lower().endswith(wanted) and not entry.name.startswith("."):
                yield in_utf8(prefix + entry.name)


def _is_folder(entry: Entry | os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def in_utf8(name: str) -> str:
    """A file's name that tables can hold: bytes that are no UTF-8 as `\\xff`, which no file has."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _entries(folder: Path) -> list[Entry | os.DirEntry[str]]:
    try:
        with scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        raise UserError(
            f"{folder} cannot be read (permission denied): give yourself access to it, or move it "
            "out of the data folder."
        ) from None


def read_rows(path: Path, needed: Iterable[str], delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Rows of a CSV file with a header, as dicts of strings, one at a time.

    A byte order mark is dropped; bytes that are not UTF-8 become U+FFFD.

    Raises:
        UserError: a needed column is missing, or the file is not CSV.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter, restval="")
        try:
            missing = [name for name in needed if name not in (rows.fieldnames or [])]
            if missing:
                found = ", ".join(rows.fieldnames or []) or "none"
                raise UserError(
                    f"{path} has the columns {found}, expected {', '.join(missing)} among them; "
                    "download it again, or export it as plain CSV."
                )
            yield from rows
        except csv.Error as error:
            raise UserError(
                f"{path} is not a CSV file (line {rows.line_num}: {error}); download it again."
            ) from None


@contextmanager
def unchanged(file: IO[Any], path: Path) -> Iterator[None]:
    """Context in which a file is read; what is said of a file that changes meanwhile is that.

    Args:
        file: open for reading.
        path: of the file, for the message.

    Raises:
        UserError: the file has another size or time at the end, or when another UserError is raised.
    """
    before = os.fstat(file.fileno())
    try:
        yield
    except UserError:
        _refuse_changed(before, file, path)
        raise
    _refuse_changed(before, file, path)


def _refuse_changed(before: os.stat_result, file: IO[Any], path: Path) -> None:
    now = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
        raise UserError(
            f"{path} changed while it was read, from {before.st_size:,} to {now.st_size:,} bytes; "
            "wait until its download is done, then run the same command again."
        ) from None


def refuse_wide_text(path: Path, head: bytes) -> None:
    """Raise UserError for a text of two or four bytes a character, by the first bytes of its file."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head[:4]:
        raise UserError(
            f"{path} is not UTF-8, but UTF-16 or UTF-32 by its first bytes, or no text; download "
            "it again, or save it as UTF-8."
        )


def contents(folder: Path, most: int = 8) -> str:
    """The first names in a folder, for messages that say what was found instead."""
    if not folder.is_dir():
        return "no folder of that name"
    found = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    if len(found) > most:
        found[most:] = [f"{len(found) - most} more"]
    return ", ".join(found) or "nothing"


def cached_by_file(maxsize: int) -> Callable[[Callable[[Path], T]], Callable[[Path], T]]:
    """Decorator of functions that parse a file: the result is kept until the file is replaced.

    The decorated function raises OSError if there is no such file.
    """

    def decorate(parse: Callable[[Path], T]) -> Callable[[Path], T]:
        cached = lru_cache(maxsize)(lambda path, *_: parse(path))

        @wraps(parse)
        def parse_if_changed(path: Path) -> T:
            state = path.stat()  # a replaced file has another time or size
            return cached(path, state.st_mtime_ns, state.st_size)

        return parse_if_changed

    return decorate
