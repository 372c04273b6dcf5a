"""What adapters share: finding media files, and reading annotation tables as they are."""

import csv
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from handloom.errors import UserError

VIDEO_SUFFIXES = frozenset({".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg"})


def files_below(
    root: Path, folder: Path, suffixes: Iterable[str], skip_folders: Container[str] = ()
) -> Iterator[str]:
    """Media files anywhere below a folder, as paths below the root with forward slashes, sorted.

    One pass of `os.scandir`; suffixes are compared in lower case. Folders named in `skip_folders`
    are left out, which spares listing millions of extracted frames. Links are followed, also out of
    the root: this reads names alone, and ingest refuses such a file by name unless it is told to
    follow links.

    Raises:
        UserError: a folder cannot be read.
    """
    wanted = tuple(suffixes)
    waiting = [folder]
    visited: set[tuple[int, int]] = set()  # or links in a circle would never end
    while waiting:
        here = waiting.pop()
        stat = here.stat()
        if (stat.st_dev, stat.st_ino) in visited:
            continue
        visited.add((stat.st_dev, stat.st_ino))
        prefix = here.relative_to(root).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        for entry in _entries(here):
            if entry.is_dir():
                if entry.name in skip_folders or entry.name == "lost+found":
                    continue
                waiting.append(here / entry.name)
            elif entry.name.lower().endswith(wanted) and not entry.name.startswith("."):
                yield prefix + entry.name


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        raise UserError(
            f"{folder} cannot be read (permission denied): give yourself access to it, or move it "
            "out of the data folder."
        ) from None


def read_rows(path: Path, needed: Iterable[str], delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Rows of a CSV file with a header, by column name, one at a time; every value stays a string.

    A byte order mark is dropped; bytes that are not UTF-8 become U+FFFD.

    Raises:
        UserError: a needed column is not there, or the file is not text.
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


def contents(folder: Path, most: int = 8) -> str:
    """The first names in a folder, for errors that say what was found instead."""
    if not folder.is_dir():
        return "no folder of that name"
    found = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    if len(found) > most:
        found[most:] = [f"{len(found) - most} more"]
    return ", ".join(found) or "nothing"
