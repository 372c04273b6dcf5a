"""A list of videos: CSV, JSONL or Parquet with path, and if known start, end, text and split."""

import csv
import io
import math
import posixpath
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from handloom.errors import UserError
from handloom.stages.datasets.formats.json_stream import MAX_VALUE, load_value
from handloom.stages.datasets.media import read_columns, unchanged

NAMES = ("clips.csv", "clips.jsonl", "clips.parquet")
"""A folder's own list."""
COLUMNS = ("path", "start", "end", "text", "split")
OTHER_NAMES = {  # under which these columns are common: passing them over would lose them
    "path": {"file", "filename", "file_name", "file_path", "video", "video_path", "name", "url"},
    "start": {"start_s", "start_sec", "start_time", "start_seconds", "begin", "from"},
    "end": {"end_s", "end_sec", "end_time", "end_seconds", "stop", "to"},
    "text": {"caption", "captions", "narration", "description", "label", "instruction", "texts"},
    "split": {"subset", "partition", "fold"},
}
SPLITS = {
    "": "", "train": "train", "training": "train", "val": "val", "valid": "val",
    "validation": "val", "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
READ_AT_A_TIME = 8192  # rows of a Parquet file

Cells = tuple[Any, ...]
"""Of one row, in the order of COLUMNS; None or empty where there is none."""


class ListedRow(NamedTuple):
    """A row of a list; a tuple, for there are millions.

    Attributes:
        number: of the row, from 1.
        path: as it is written, without needless dots and slashes.
        start_s: seconds from the start of the file; None where the row says none, NaN where it says
            what is no number.
        end_s: likewise.
        text: as it is written.
        split: train, val, test, or empty.
    """

    number: int
    path: str
    start_s: float | None
    end_s: float | None
    text: str
    split: str


def folder_list(folder: Path) -> Path | None:
    """The list in a folder of videos; None where there is none.

    Raises:
        UserError: there are several.
    """
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(
            f"{folder} holds {' and '.join(path.name for path in found)}, expected one list of "
            "clips; name the one that is meant with --ingest.list."
        )
    return found[0] if found else None


def read_list(path: Path) -> Iterator[ListedRow]:
    """Stream the rows of a list.

    Raises:
        UserError: there is no such file, it cannot be read, has no column `path`, has one of the
            others under another name, or a split that is none.
    """
    check_list(path)
    for number, cells in enumerate(_READERS[path.suffix.lower()](path), 1):
        name, start, end, text, split = cells
        name = _text(name)
        if not name:
            raise UserError(f"{path} has no path in row {number}; name a file, or drop the row.")
        yield ListedRow(
            number,
            posixpath.normpath(name),
            _seconds(start),
            _seconds(end),
            _text(text),
            _split(_text(split), path, number),
        )


def check_list(path: Path) -> None:
    """Raise UserError for what is no file, or of another kind than a list."""
    kinds = "a .csv, .jsonl or .parquet file"
    if not path.is_file():
        found = "a folder" if path.is_dir() else "not there"
        raise UserError(f"--ingest.list {path} is {found}, expected {kinds}.")
    if path.suffix.lower() not in _READERS:
        raise UserError(f"{path} is no list of clips, expected {kinds}.")


def _csv(path: Path) -> Iterator[Cells]:
    with path.open("rb") as file:
        first = io.TextIOWrapper(file, "utf-8-sig", "replace", newline="").readline(1 << 20)
    check_columns(path, next(csv.reader([first]), []))
    yield from read_columns(path, COLUMNS[:1], COLUMNS[1:])


def _json_lines(path: Path) -> Iterator[Cells]:
    known: set[str] = set()
    with path.open("rb") as file, unchanged(file, path):
        number = 0
        while line := file.readline(MAX_VALUE):
            number += 1
            if not line.strip():
                continue
            row = _json_row(line, path, number)
            if not row.keys() <= known:  # a row may leave columns out
                check_columns(path, list(row), f" in line {number}")
                known |= row.keys()
            yield tuple(map(row.get, COLUMNS))


def _json_row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = load_value(line)
    except ValueError as error:
        row = error
    if not isinstance(row, dict):
        raise UserError(
            f"{path} has no JSON object in line {number}, expected one on each line, such as "
            '{"path": "a.mp4", "text": "pour tea"}.'
        ) from None
    return row


def _parquet(path: Path) -> Iterator[Cells]:
    try:
        with path.open("rb") as raw, pq.ParquetFile(raw) as file:
            names = file.schema_arrow.names
            check_columns(path, names)
            wanted = [name for name in COLUMNS if name in names]
            for batch in file.iter_batches(READ_AT_A_TIME, columns=wanted):
                columns = {name: batch.column(name).to_pylist() for name in wanted}
                empty = [None] * batch.num_rows
                yield from zip(*(columns.get(name, empty) for name in COLUMNS), strict=True)
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())[:120]
        raise UserError(f"{path} cannot be read as Parquet ({why}); write it again.") from None


_READERS: dict[str, Callable[[Path], Iterator[Cells]]] = {
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}


def check_columns(path: Path, names: Sequence[str], where: str = "") -> None:
    """Refuse a list without a column `path`, or with one of the others under another name.

    Raises:
        UserError: naming the columns found and expected.
    """
    expected = "path, and if you like start, end (seconds), text and split"
    for column, others in OTHER_NAMES.items():
        wrong = [name for name in names if name.strip().lower() in others]
        wrong += [name for name in names if name != column and name.strip().lower() == column]
        if wrong and column not in names:
            raise UserError(
                f"{path} has the column {wrong[0]!r}{where}, expected {column!r}: rename it (the "
                f"columns are {expected})."
            )
    if "path" not in names:
        raise UserError(
            f"{path} has the columns {', '.join(names) or 'none'}{where}, expected {expected}."
        )


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return "" if value is None else str(value).strip()


def _seconds(value: Any) -> float | None:
    """A cell as seconds; None if it is empty, NaN for what is no number."""
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _split(value: str, path: Path, number: int) -> str:
    if value.lower() not in SPLITS:
        raise UserError(
            f"{path} has the split {value!r:.40} in row {number}, expected train, val, test or "
            "nothing."
        )
    return SPLITS[value.lower()]
