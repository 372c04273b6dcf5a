"""Folds: many small parts in one file while a stage works, a row group for each of them.

A leaf is a part as a worker wrote it, in a file of its own or in a fold. Its name, its size and its
rows stay known in the fold, so that a finished table has the same bytes whether its parts had been
folded or not. A fold is Parquet as any part; its name says so, and how many leaves it holds:

    <bucket>-<fingerprint>-fold-<leaves>-<digest>.parquet
"""

import hashlib
import json
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from handloom.errors import RunError
from handloom.files import whole
from handloom.stages.tables.reading import AWAY, check_columns, columns_of, damage_named

_MARK = "-fold-"
_NAME = re.compile(_MARK + r"(\d+)-[0-9a-f]+\.parquet")
_LEAVES = b"handloom.leaves"  # [name, size in bytes] of each row group
_SCHEMA = b"handloom.schema"  # of its first leaf, as Parquet keeps Arrow's
SOURCES = b"handloom.merged_from"  # names of the files whose rows a part holds


@dataclass(frozen=True)
class Leaf:
    """A part as a worker wrote it.

    Args:
        name: of its own file.
        size: of that file in bytes.
        path: the file that holds it now.
        group: its row group in a fold; None in a file of its own.
    """

    name: str
    size: int
    path: Path
    group: int | None = None


def is_fold(name: str) -> bool:
    """Whether a file is a fold, by its name."""
    return _MARK in name and _NAME.search(name) is not None


def leaf_count(name: str) -> int:
    """Number of leaves in a part, by its name."""
    found = _NAME.search(name) if _MARK in name else None
    return int(found[1]) if found else 1


def fold_name(bucket: str, fingerprint: str, names: Sequence[str]) -> str:
    """Name of the fold of some parts of a bucket."""
    leaves = sum(map(leaf_count, names))
    digest = hashlib.blake2b("/".join(names).encode(), digest_size=6).hexdigest()
    return f"{bucket}-{fingerprint[:12]}{_MARK}{leaves}-{digest}.parquet"


def leaves_of(path: Path) -> list[Leaf]:
    """The leaves that a part holds; of one that is no fold itself.

    Raises:
        RunError: a file that is called a fold is none.
    """
    if not is_fold(path.name):
        return [Leaf(path.name, path.stat().st_size, path)]
    named = json.loads(_metadata(path).get(_LEAVES, "[]"))
    if not named:
        raise RunError(f"{path} is called a fold and is none, so no run has written it: {AWAY}")
    return [Leaf(name, size, path, group) for group, (name, size) in enumerate(named)]


def leaf_names(paths: Iterable[Path]) -> set[str]:
    """Names of some parts, and of all leaves that they hold."""
    return {name for path in paths for name in (path.name, *(one.name for one in leaves_of(path)))}


def merged_from(path: Path) -> list[str]:
    """Names of the parts whose rows a part holds; empty for one that a worker wrote."""
    names: list[str] = json.loads(_metadata(path).get(SOURCES, "[]"))
    return names


def _metadata(path: Path) -> dict[bytes, bytes]:
    with damage_named(path):
        return dict(pq.read_metadata(path).metadata or {})


def read_leaves(
    leaves: Iterable[Leaf], columns: list[str] | None = None
) -> Iterator[tuple[Leaf, pa.Table]]:
    """Each leaf with its rows, whose metadata are those of the file; each fold is opened once."""
    with ExitStack() as opened:
        folds: dict[Path, pq.ParquetFile] = {}
        for leaf in leaves:
            with damage_named(leaf.path):
                if leaf.group is None:
                    yield leaf, columns_of(leaf.path, columns)
                    continue
                if leaf.path not in folds:
                    folds[leaf.path] = opened.enter_context(pq.ParquetFile(leaf.path))
                rows = folds[leaf.path].read_row_group(leaf.group, columns, use_threads=False)
            check_columns(leaf.path, rows.column_names, columns or ())
            yield leaf, rows


def write_fold(path: Path, leaves: Iterable[tuple[Leaf, pa.Table]]) -> list[Leaf]:
    """Write a fold, whole or not at all; one leaf at a time is in memory.

    Args:
        path: the file.
        leaves: with their rows, which have one schema; at least one.

    Returns:
        The leaves that it holds.
    """
    found, written = iter(leaves), list[Leaf]()
    first = next(found)
    with whole(path) as temporary:
        # Without dictionaries and statistics, which cost half of the time and are of no use here.
        options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
        schema = first[1].schema.remove_metadata()
        with pq.ParquetWriter(temporary, schema, **options) as writer:
            for leaf, rows in chain([first], found):
                writer.write_table(rows, row_group_size=max(1, rows.num_rows))
                written.append(leaf)
            named = json.dumps([[leaf.name, leaf.size] for leaf in written])
            sources = json.dumps(files_of(written))
            facts = {_LEAVES: named, SOURCES: sources, _SCHEMA: _schema(first[0].path)}
            writer.add_key_value_metadata(facts)
    return written


def as_written(leaf: Leaf, rows: pa.Table) -> pa.Table:
    """Rows of a fold with the schema that a worker gave them: the fields of lists have names."""
    schema = pa.ipc.read_schema(pa.py_buffer(b64decode(_schema(leaf.path))))
    return rows.replace_schema_metadata().cast(schema)


def _schema(path: Path) -> bytes:
    facts = _metadata(path)
    return facts.get(_SCHEMA, facts[b"ARROW:schema"])


def files_of(leaves: Iterable[Leaf]) -> list[str]:
    """Names of the files that hold some leaves."""
    return list(dict.fromkeys(leaf.path.name for leaf in leaves))


def keep_rows(path: Path, stays: Sequence[bool]) -> None:
    """Rewrite a fold with some of its rows; it goes where none stay.

    Args:
        path: a fold.
        stays: whether to keep it, for each row.
    """
    kept: list[tuple[Leaf, pa.Table]] = []
    start = 0
    for leaf, rows in read_leaves(leaves_of(path)):
        of_leaf = stays[start : start + rows.num_rows]
        start += rows.num_rows
        if any(of_leaf):
            kept.append((leaf, rows.filter(pa.array(of_leaf, pa.bool_()))))
    if kept:
        write_fold(path, kept)
    else:
        path.unlink()
