"""Functions that adapters share: finding media files, reading CSV, keeping what is parsed."""

import codecs
import csv
import io
import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, wraps
from operator import itemgetter
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
        files, folders = _names_in(here, wanted)
        waiting += [here / name for name in folders if name not in skip_folders]
        yield from (in_utf8(prefix + name) for name in files)


def _names_in(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Sorted names of the media files and of the folders in a folder.

    Nothing else of the entries is kept: a folder may hold millions. Whether one is a folder is
    known from the listing, without a stat for each of them.
    """
    files, folders = [], []
    try:
        with scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if _is_folder(entry):
                    folders.append(name)
                elif name.lower().endswith(suffixes) and not name.startswith("."):
                    files.append(name)
    except PermissionError:
        raise UserError(
            f"{folder} cannot be read (permission denied): give yourself access to it, or move it "
            "out of the data folder."
        ) from None
    return sorted(files), sorted(name for name in folders if name != "lost+found")


def _is_folder(entry: Entry | os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def in_utf8(name: str) -> str:
    """A file's name that tables can hold: bytes that are no UTF-8 as `\\xff`, which no file has."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_rows(path: Path, needed: Iterable[str], delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Rows of a CSV file with a header, as dicts of strings, one at a time.

    A byte order mark is dropped; bytes that are not UTF-8 become U+FFFD; missing cells are empty.

    Raises:
        UserError: a needed column is missing, the file is not CSV, or it changes while it is read.
    """
    lines = _csv_rows(path, needed, delimiter)
    names = next(lines)
    padding = [""] * len(names)
    for row in lines:
        yield dict(zip(names, row + padding[len(row) :], strict=False))


def read_columns(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, ...]]:
    """The cells of two or more columns of a CSV file, row by row: a third of `read_rows`' time.

    Columns that are optional and missing are empty. Raises UserError as `read_rows`.
    """
    lines = _csv_rows(path, needed)
    names = next(lines)
    numbers = {name: number for number, name in enumerate(names)}
    at = [numbers.get(name, len(names)) for name in (*needed, *optional)]
    cells, width = itemgetter(*at), len(names)
    is_whole = width not in at
    for row in lines:
        if is_whole and len(row) >= width:
            yield cells(row)
        else:
            yield cells(row[:width] + [""] * (width + 1 - min(len(row), width)))


def _csv_rows(path: Path, needed: Iterable[str], delimiter: str = ",") -> Iterator[list[str]]:
    """The header of a CSV file, then its rows that are not blank."""
    with path.open("rb") as raw, unchanged(raw, path):
        refuse_wide_text(path, raw.read(4))
        raw.seek(0)
        file = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")
        rows = csv.reader(_without_nul(file, path), delimiter=delimiter)
        try:
            names = next(rows, [])
            if missing := [name for name in needed if name not in names]:
                raise UserError(
                    f"{path} has the columns {', '.join(names) or 'none'}, expected "
                    f"{', '.join(missing)} among them; download it again, or export it as plain "
                    "CSV."
                )
            yield names
            yield from filter(None, rows)
        except csv.Error as error:
            raise UserError(
                f"{path} is not a CSV file (line {rows.line_num}: {error}); download it again."
            ) from None


def _without_nul(lines: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UserError(
                f"{path} has NUL bytes in line {number}, as of a download that broke off; download "
                "it again."
            )
        yield line


@contextmanager
def unchanged(file: IO[Any], path: Path) -> Iterator[None]:
    """Context in which a file is read; what is said of a file that changes meanwhile is that.

    Args:
        file: open for reading.
        path: of the file, for the message.

    Raises:
        UserError: the file has another size or time at the end, or when another one is raised.
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
    """Raise UserError for a text of two or four bytes a character, by its first bytes."""
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
