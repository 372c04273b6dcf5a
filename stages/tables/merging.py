"""Merging the small parts of a table into few large ones, while a stage works and when it is done.

Workers write a part for every batch, so that a killed run loses little. 38 million clips would
leave a million files, and opening one costs more than reading its columns. While a stage works they
are folded (`folds.py`, `folding.py`). When it is done, its parts become few: the same ones whether
they had been folded or not.

    1. write <merged>.parquet.merging, which names in its metadata the parts that it holds
    2. remove those parts
    3. rename it to <merged>.parquet

A run that dies after 1 is completed by the next one; a reader never sees a row twice, and while it
goes on a reader of handloom's misses none (`listing.py`).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from handloom.errors import RunError
from handloom.files import rename
from handloom.stages.tables.folds import (
    SOURCES,
    Leaf,
    as_written,
    is_fold,
    leaves_of,
    merged_from,
    read_leaves,
)
from handloom.stages.tables.listing import MERGING, end_replacing, merging, replace_files
from handloom.stages.tables.parts import Table
from handloom.stages.tables.reading import check_types, columns_of, damage_named
from handloom.stages.tables.writing import keep, replace_part

MANY = 8  # parts of a bucket that are worth merging
SMALL_BYTES = 16 << 20  # a part from this size on is left as it is
LARGE_BYTES = 64 << 20  # a merged part stays below this, so that it fits in memory


def merge_parts(table: Table) -> None:
    """Merge a finished table's small parts, bucket by bucket."""
    end_replacing(table.folder)
    by_bucket: dict[str, list[Path]] = {}
    for path in table.parts():
        by_bucket.setdefault(path.name.split("-")[0], []).append(path)
    for bucket, paths in by_bucket.items():
        _merge_bucket(table, bucket, paths)
    end_replacing(table.folder)


def complete_merges(table: Table) -> None:
    """Finish what a killed run had begun to merge; does nothing otherwise."""
    by_bucket: dict[str, list[Path]] = {}
    for path in filter(_is_whole, merging(table.folder)):
        by_bucket.setdefault(path.name.split("-")[0], []).append(path)
    for bucket, paths in by_bucket.items():
        folds = [path for path in paths if is_fold(path.name)]
        for path in folds:
            _take_place(path, merged_from(path))
        _complete_bucket(table, bucket, [path for path in paths if path not in folds])
    end_replacing(table.folder)


def drop_repeated(table: Table, key: str) -> None:
    """Drop the rows whose key an earlier part of the bucket holds too.

    A worker that was given up for lost may have written its part after all, while others computed
    the same clips in batches of other names.

    Args:
        table: a table that nobody writes to.
        key: the column that a batch's inputs are told apart by; all rows of one lie in one part.
    """
    found = table.listed()
    for bucket in found.buckets():
        seen: set[str] = set()
        for path in found.parts(bucket):
            with damage_named(path):
                keys = columns_of(path, [key])[key].to_pylist()
            stays = [value not in seen for value in keys]
            if not stays or not all(stays):
                keep(path, stays)
            seen.update(keys)


def _groups(leaves: Sequence[Leaf]) -> list[list[Leaf]]:
    """Runs of leaves, each of less than `LARGE_BYTES`."""
    groups: list[list[Leaf]] = [[]]
    held = 0
    for leaf in leaves:
        if groups[-1] and held + leaf.size > LARGE_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(leaf)
        held += leaf.size
    return [group for group in groups if len(group) > 1]


def _merge_bucket(table: Table, bucket: str, paths: Sequence[Path]) -> None:
    """Merge the parts of a bucket, and leave no fold."""
    folds = [path for path in paths if is_fold(path.name)]
    folded = {leaf.name: leaf for fold in folds for leaf in leaves_of(fold)}
    files = {path.name: path for path in paths if path not in folds}
    for name in files.keys() & folded.keys():  # written again by a worker given up for lost
        files.pop(name).unlink()
    in_files = [leaf for path in files.values() for leaf in leaves_of(path)]
    leaves = sorted([*in_files, *folded.values()], key=lambda leaf: leaf.name)
    small = [leaf for leaf in leaves if leaf.size < SMALL_BYTES]
    groups = _groups(small) if len(small) >= MANY else []
    grouped = {leaf.name for group in groups for leaf in group}
    groups += [[leaf] for name, leaf in folded.items() if name not in grouped]
    replaced: dict[str, list[str]] = {}
    for group in groups:
        sources = [leaf.name for leaf in group if leaf.group is None]
        replaced[_write_merged(table, bucket, group)] = sources
    if replaced:
        replaced[next(iter(replaced))] += [fold.name for fold in folds]
        replace_files(table.folder, replaced)


def _write_merged(table: Table, bucket: str, leaves: Sequence[Leaf]) -> str:
    """Write the part of some leaves under the name that it has until they are gone; returns its
    own."""
    rows = [found.replace_schema_metadata() for _, found in read_leaves(leaves)]
    check_types([leaf.path for leaf in leaves], rows)
    names = [leaf.name for leaf in leaves]
    if len(leaves) == 1:
        name, merged = names[0], as_written(leaves[0], rows[0])
    else:
        digest = hashlib.blake2b("/".join(names).encode(), digest_size=6).hexdigest()
        name = f"{bucket}-{table.fingerprint[:12]}-{digest}.parquet"
        merged = pa.concat_tables(rows).replace_schema_metadata({SOURCES: json.dumps(names)})
    replace_part(table.folder / (name + MERGING), merged)
    return name


def _is_whole(path: Path) -> bool:
    """Whether a part can be read; it is removed otherwise, and its rows are computed again."""
    try:
        merged_from(path)
    except RunError:
        if path.is_dir():
            raise
        path.unlink(missing_ok=True)
        return False
    return True


def _complete_bucket(table: Table, bucket: str, paths: Sequence[Path]) -> None:
    """Finish merging a bucket, or undo it: while a part is not written yet, folds hold its rows."""
    holds = {path: merged_from(path) or [path.name.removesuffix(MERGING)] for path in paths}
    written = {name for held in holds.values() for name in held}
    goes: list[str] = []
    for fold in filter(lambda path: is_fold(path.name), table.folder.glob(f"{bucket}-*.parquet")):
        names = {leaf.name for leaf in leaves_of(fold)}
        if names <= written:
            goes.append(fold.name)
        elif names & written:
            for path in paths:
                path.unlink()
            return
    for name in goes:
        (table.folder / name).unlink()
    for path, held in holds.items():
        _take_place(path, held)


def _take_place(path: Path, sources: Sequence[str]) -> None:
    """Remove the parts that another one holds, then give that its name."""
    for name in sources:
        (path.parent / name).unlink(missing_ok=True)
    rename(path, path.parent / path.name.removesuffix(MERGING))
