"""A file of clip ids that says what becomes of them: dropped, another caption, another split; and
what the manifests of several folders have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.json as pc_json
import pyarrow.parquet as pq

from handloom.errors import UserError, first_line
from handloom.tokenize.shards import SPLITS

COLUMNS = ("drop", "caption", "split")
YES, NO = frozenset({"1", "true", "yes", "drop"}), frozenset({"", "0", "false", "no"})
KINDS = "a .csv, .jsonl or .parquet file with the column clip_id and any of drop, caption, split"


@dataclass(frozen=True)
class Edit:
    """What becomes of one clip.

    Attributes:
        drop: whether it goes.
        caption: its new caption, or None.
        split: the split that it goes to, or None.
    """

    drop: bool = False
    caption: str | None = None
    split: str | None = None


def read_edits(path: Path) -> dict[str, Edit]:
    """Edits by clip id; a row that only names a clip leaves it as it is.

    Raises:
        UserError: the file cannot be read, has no column clip_id, says something else than it may,
            or names a clip twice with different edits.
    """
    table = _table(path)
    if "clip_id" not in table.column_names:
        found = ", ".join(table.column_names) or "none"
        raise UserError(f"{path} has the columns {found}, expected {KINDS}.")
    unknown = sorted(set(table.column_names) - {"clip_id", *COLUMNS})
    if not set(COLUMNS) & set(table.column_names) and unknown:
        raise UserError(f"{path} has the columns clip_id, {', '.join(unknown)}, expected {KINDS}.")
    columns = [
        _texts(table[name]) if name in table.column_names else [None] * len(table)
        for name in ("clip_id", *COLUMNS)
    ]
    edits: dict[str, Edit] = {}
    for number, (clip_id, drop, caption, split) in enumerate(zip(*columns, strict=True), 1):
        if not clip_id:
            raise UserError(f"{path} has no clip_id in row {number}; name a clip, or drop the row.")
        edit = Edit(_is_dropped(drop, path, number), caption or None, _split(split, path, number))
        if edits.setdefault(clip_id, edit) != edit:
            raise UserError(
                f"{path} says of clip {clip_id} in row {number} something else than in a row "
                "before; keep one of them."
            )
    return edits


def _table(path: Path) -> pa.Table:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "not there"
        raise UserError(f"--edits {path} is {found}, expected {KINDS}.")
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path)
        if path.suffix.lower() == ".csv":
            names = pc_csv.open_csv(path).schema.names
            texts = pc_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            )
            lines = pc_csv.ParseOptions(newlines_in_values=True)
            return pc_csv.read_csv(path, parse_options=lines, convert_options=texts)
        if path.suffix.lower() in (".jsonl", ".json"):
            return pc_json.read_json(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}), expected {KINDS}.") from None
    raise UserError(f"{path} is no file of edits, expected {KINDS}.")


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Values as text without spaces around them; numbers and booleans as they are printed."""
    values = column.to_pylist()
    return [None if v is None else (v if isinstance(v, str) else str(v)).strip() for v in values]


def _is_dropped(value: str | None, path: Path, row: int) -> bool:
    word = (value or "").lower()
    if word not in YES | NO:
        raise UserError(f"{path} has drop {value!r} in row {row}, expected true or false.")
    return word in YES


def _split(value: str | None, path: Path, row: int) -> str | None:
    if value and value not in SPLITS:
        raise UserError(
            f"{path} has the split {value!r} in row {row}, expected {' or '.join(SPLITS)}."
        )
    return value or None


def in_common(values: list[Any]) -> Any:
    """What several values have in common: of objects the entries that are alike."""
    first, *others = values
    if all(other == first for other in others):
        return first
    names = [n for n in first if all(isinstance(o, dict) and n in o for o in others)]
    found = {name: _alike([value[name] for value in values]) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _alike(values: list[Any]) -> Any:
    if all(isinstance(value, dict) for value in values):
        return in_common(values)
    return values[0] if all(value == values[0] for value in values) else None
