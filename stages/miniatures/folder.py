"""The folder of a miniature: its owner file is written first, the marker of completeness last.

`miniature_writer` is the decorator of the functions that write one.
"""

import csv
import json
import os
import shutil
import string
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np

from handloom import files
from handloom.errors import UserError

LETTERS = list(string.ascii_letters + string.digits)  # of web ids, which may also hold - and _
MARKER = ".complete.json"
OWNER = ".miniature"


P = ParamSpec("P")


def miniature_writer(
    dataset: str, *parts: str, version: int
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Decorator of functions `write(out, clips, seed)` that fill a folder with a dataset.

    The decorated function leaves a folder alone that the same arguments have completed, and
    otherwise first removes what other arguments, or a killed process, have left. It raises
    UserError if the folder holds the dataset itself, or the miniature of another one.

    Args:
        dataset: name of the dataset.
        parts: files and folders directly below `out` that make up the dataset.
        version: to be raised whenever the same arguments give other bytes.
    """

    def decorate(write: Callable[P, None]) -> Callable[P, None]:
        @wraps(write)
        def write_once(*args: P.args, **kwargs: P.kwargs) -> None:
            call = signature(write).bind(*args, **kwargs)
            call.apply_defaults()  # `clips` and `seed` that were left out are in the marker too
            out, clips, seed = call.args
            marker = {"dataset": dataset, "clips": clips, "seed": seed, "version": version}
            if not is_complete(out, marker):
                _claim(out, dataset, parts)
                write(*args, **kwargs)
                complete(out, marker, parts)

        return write_once

    return decorate


def _claim(out: Path, dataset: str, parts: Sequence[str]) -> None:
    """Empty the folder and write its owner file; raise UserError if it holds something else."""
    owner, title = out / OWNER, f"handloom miniature of {dataset}"
    if not owner.is_file():
        for part in parts:
            refuse_foreign(out / part)
    elif owner.read_text(encoding="utf-8", errors="replace").strip() != title:
        raise UserError(
            f"{out} holds another miniature ({OWNER} says whose), expected none or one of "
            f"{dataset}. Name another folder to write to."
        )
    clear(out, owner, title, parts)
    write_text(owner, title + "\n")


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
    """Remove an earlier miniature, finished or not; raise UserError for anything else.

    `owner` is the file that was written first, with `title` in its first 400 characters.
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
    """A random video id of 11 characters that begins with `first`, as the large video site has."""
    return first + "".join(rng.choice(LETTERS, 11 - len(first)))


def in_parallel(jobs: Iterable[partial[None]]) -> None:
    """Run jobs that render and encode, in threads.

    Threads suffice: the encoder is a process of its own, and runs while the next frames are drawn.
    """
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1) + 1) as pool:
        list(pool.map(lambda job: job(), jobs))
