"""How a miniature's folder is written: whose it is first, the marker that it is complete last."""

import csv
import json
import os
import shutil
import string
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from handloom import files
from handloom.errors import UserError

LETTERS = list(string.ascii_letters + string.digits)  # of the ids, which also hold `-` and `_`
MARKER = ".complete.json"
OWNER = ".miniature"


@dataclass(frozen=True)
class Folder:
    """A folder for a miniature whose annotations have no field that could say what they are.

    Attributes:
        out: the folder.
        dataset: name of the dataset.
        parts: files and folders directly below `out` that belong to it; removed when rewritten.
        settings: what the bytes depend on.
    """

    out: Path
    dataset: str
    parts: Sequence[str]
    settings: dict[str, int]

    @property
    def _marker(self) -> dict[str, Any]:
        return {"dataset": self.dataset, **self.settings}

    def fill(self, write: Callable[[], None]) -> None:
        """Call `write` unless the folder is complete; what an earlier, other call left is removed.

        Raises UserError where the folder holds the dataset itself, or another one's miniature.
        """
        if is_complete(self.out, self._marker):
            return
        owner, title = self.out / OWNER, f"handloom miniature of {self.dataset}"
        if not owner.is_file():
            for part in self.parts:
                refuse_foreign(self.out / part)
        elif owner.read_text(encoding="utf-8", errors="replace").strip() != title:
            raise UserError(
                f"{self.out} holds another miniature ({OWNER} says whose), expected none or one of "
                f"{self.dataset}. Name another folder to write to."
            )
        clear(self.out, owner, title, self.parts)
        write_text(owner, title + "\n")
        write()
        complete(self.out, self._marker, self.parts)


def is_complete(out: Path, marker: dict[str, Any]) -> bool:
    """Whether a miniature was written to its end with the same settings."""
    done = out / MARKER
    return done.is_file() and json.loads(done.read_text()) == marker


def complete(out: Path, marker: dict[str, Any], parts: Iterable[str]) -> None:
    """Write the marker of a finished miniature when its parts, relative to `out`, are on disk."""
    for part in parts:
        if (out / part).exists():
            files.sync_tree(out / part)  # once: each of thousands of files apart takes longer
    files.write_text(out / MARKER, json.dumps(marker, indent=1) + "\n")


def refuse_foreign(path: Path) -> None:
    """Raise UserError if there is anything at a path that no miniature has written."""
    if path.exists():
        raise UserError(f"{path} exists and is not a miniature's. Name another folder to write to.")


def clear(out: Path, owner: Path, title: str, parts: Iterable[str]) -> None:
    """Remove an earlier miniature, finished or not; refuse to touch anything else.

    `owner` is the file that was written first and holds `title` in its first 400 characters.
    """
    if not owner.is_file():
        return
    with owner.open(encoding="utf-8", errors="replace") as file:
        if title not in file.read(400):
            refuse_foreign(owner)
    (out / MARKER).unlink(missing_ok=True)
    for part in parts:
        if (out / part).is_dir():
            shutil.rmtree(out / part)
        else:
            (out / part).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, with the folders above it; the marker syncs it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, with the folders above it; the marker syncs it."""
    files.write_bytes(path, content, sync=False)


def write_json(path: Path, value: object, indent: int | None = 1) -> None:
    """Write a JSON file whole or not at all; what is not ASCII is escaped."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_table(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str = ","
) -> None:
    """Write a table with a header whole or not at all; values are quoted where they must be."""
    with (
        files.whole(path, sync=False) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def web_video_id(rng: np.random.Generator, first: str = "") -> str:
    """An id as the large video site has them: 11 characters, of which `first` are given."""
    return first + "".join(rng.choice(LETTERS, 11 - len(first)))


def in_parallel(jobs: Iterable[partial[None]]) -> None:
    """Run jobs that render and encode.

    Threads suffice: the encoder is a process of its own and runs while the next frames are drawn.
    """
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1) + 1) as pool:
        list(pool.map(lambda job: job(), jobs))
