"""What adapters share: finding media files, and reading annotation tables as they are."""

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from handloom.errors import UserError
from handloom.stages.datasets.source import inside

VIDEO_SUFFIXES = frozenset({".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg"})


def files_below(root: Path, folder: Path, suffixes: Iterable[str]) -> Iterator[str]:
    """Media files anywhere below a folder, as paths below the root with forward slashes, sorted.

    One pass of `os.scandir`; suffixes are compared in lower case. Links are followed as long as
    they stay below the root: nothing else is listed.
    """
    wanted = tuple(suffixes)
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        with os.scandir(here) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        prefix = here.relative_to(root).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        for entry in found:
            path = prefix + entry.name
            if entry.is_symlink() and not inside(root, path):
                continue
            if entry.is_dir():
                waiting.append(here / entry.name)
            elif entry.name.lower().endswith(wanted) and not entry.name.startswith("."):
                yield path


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
