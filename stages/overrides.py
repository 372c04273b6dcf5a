"""Marks that a person has set on clips, read from a file: `select` puts them over its own verdict.

    clip_id,mark,note
    44cdaa63c432c3ef4186,drop,shows a face
    1f8856344d6e27094d3a,wrong_caption,
    9d02c8d1a0f14c2be7aa,keep,
    c4f0e61b3a7755d1920e,,look again

CSV, or Parquet with the same columns; `handloom view` writes such a file. A clip without a mark has
a note alone. Further columns are ignored.
"""

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from handloom.errors import UserError
from handloom.stages.tables.parts import Table

COLUMNS = ("clip_id", "mark", "note")
KEEP, DROP, WRONG_CAPTION = "keep", "drop", "wrong_caption"
MARKS = {KEEP: "marked_keep", DROP: "marked_drop", WRONG_CAPTION: "marked_wrong_caption"}
"""Reason of the clips with each mark; those marked `keep` are `ok` with that reason."""
NAMED = 5  # clips in a message


@dataclass(frozen=True)
class Mark:
    """What somebody says of a clip.

    Attributes:
        mark: one of MARKS, or empty.
        note: in their own words.
    """

    mark: str
    note: str = ""


@dataclass(frozen=True)
class Overrides:
    """The verdicts of a file of marks.

    Attributes:
        clip_ids: of the clips with a mark, string [M].
        marks: their marks, string [M].
    """

    clip_ids: pa.Array
    marks: pa.Array

    @classmethod
    def of(cls, marks: dict[str, Mark]) -> "Overrides":
        """Those of the clips that have more than a note."""
        some = {clip_id: one.mark for clip_id, one in sorted(marks.items()) if one.mark}
        return cls(pa.array(some.keys(), pa.string()), pa.array(some.values(), pa.string()))

    @property
    def digest(self) -> str:
        """Digest of the verdicts; notes do not count."""
        rows = [self.clip_ids.to_pylist(), self.marks.to_pylist()]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def of_clips(self, clip_ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """The mark of each of some clips, empty without one."""
        where = pc.index_in(clip_ids.cast(pa.string()), value_set=self.clip_ids)
        where = where.combine_chunks() if isinstance(where, pa.ChunkedArray) else where
        return pc.fill_null(self.marks.take(where), "")

    def check(self, ingest: Table) -> None:
        """Refuse marks of clips that the run does not hold.

        Raises:
            UserError: naming some of them.
        """
        unknown = self.clip_ids
        for bucket in ingest.buckets():
            if not len(unknown):
                return
            known = ingest.columns(["clip_id"], [bucket])["clip_id"].cast(pa.string())
            unknown = unknown.filter(pc.invert(pc.is_in(unknown, value_set=known.combine_chunks())))
        if len(unknown):
            some = ", ".join(unknown[:NAMED].to_pylist())
            more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
            raise UserError(
                f"--select.overrides marks {len(unknown)} clips that this run does not hold "
                f"({some}{more}); expected ids of its `ingest` table: take these lines out, or "
                "name the marks of this run."
            )


def read_marks(path: Path) -> dict[str, Mark]:
    """Marks by clip id.

    Raises:
        UserError: no such file, another format, a column missing, a mark that is not known, or two
            lines on one clip.
    """
    try:
        rows = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    except FileNotFoundError:
        raise UserError(
            f"--select.overrides {path} is not there; expected a CSV or Parquet of marks, as "
            "`handloom view` writes one."
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"--select.overrides {path} cannot be read as {path.suffix or 'CSV'} ({why}); expected "
            f"the columns {', '.join(COLUMNS)}."
        ) from None
    return _marks(path, rows)


def _csv(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        _check_columns(path, reader.fieldnames or ())
        return list(reader)


def _parquet(path: Path) -> list[dict[str, Any]]:
    table = pq.read_table(path)
    _check_columns(path, table.column_names)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _check_columns(path: Path, found: Iterable[str]) -> None:
    names = list(found)
    missing = [name for name in COLUMNS[:2] if name not in names]
    if missing:
        raise UserError(
            f"--select.overrides {path} has no column {' and no '.join(missing)}, only "
            f"{', '.join(names)[:200] or 'nothing'}; expected {', '.join(COLUMNS)}."
        )


def _marks(path: Path, rows: Iterable[dict[str, Any]]) -> dict[str, Mark]:
    marks: dict[str, Mark] = {}
    for number, row in enumerate(rows, 1):
        clip_id, mark, note = (str(row.get(name) or "").strip() for name in COLUMNS)
        if mark and mark not in MARKS:
            raise UserError(
                f"--select.overrides {path}: clip {clip_id} is marked {mark[:40]!r} in row "
                f"{number}, expected {', '.join(MARKS)} or nothing."
            )
        if not clip_id or clip_id in marks:
            what = f"clip {clip_id} comes twice" if clip_id else "a clip has no id"
            raise UserError(
                f"--select.overrides {path}: {what}, in row {number}; expected one row a clip."
            )
        marks[clip_id] = Mark(mark, note)
    return marks
