"""Row counts of parts, kept beside them, so that a run need not open each part to count its rows.

    _rows.json    {name: [bytes, time of its last change in ns, rows]}

A count holds for a part of that name, size and time. Others are read from the part itself.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from handloom.files import read_facts, write_text
from handloom.stages.tables.reading import check_columns, damage_named

COUNTS = "_rows.json"


def row_counts(folder: Path, parts: Iterable[Path]) -> dict[str, int]:
    """Number of rows of each part by name."""
    return {name: known[-1] for name, known in _counted(folder, parts).items()}


def store_counts(folder: Path, parts: Iterable[Path]) -> int:
    """Keep the row counts of a table's parts; returns their sum."""
    found = _counted(folder, parts)
    if found != read_facts(folder / COUNTS):
        write_text(folder / COUNTS, json.dumps(found), sync=False)
    return sum(known[-1] for known in found.values())


def _counted(folder: Path, parts: Iterable[Path]) -> dict[str, list[int]]:
    """Bytes, time and rows of each part."""
    stored, found = read_facts(folder / COUNTS), dict[str, list[int]]()
    for path in parts:
        facts = path.stat()
        identity = [facts.st_size, facts.st_mtime_ns]
        known: list[int] = stored.get(path.name, [])
        are_numbers = isinstance(known, list) and all(type(n) is int for n in known)
        is_same = are_numbers and len(known) == 3 and known[:2] == identity
        found[path.name] = known if is_same else [*identity, _rows(path)]
    return found


def _rows(path: Path) -> int:
    with damage_named(path):
        facts = pq.read_metadata(path)
    check_columns(path, facts.schema.names, ["clip_id"])
    return int(facts.num_rows)
