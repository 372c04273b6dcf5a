"""Merging the small parts of a table into few large ones.

Workers write a part for every batch, so that a killed run loses little. 38 million clips would
leave a million files, and opening one costs more than reading its columns.

    1. write <merged>.parquet.merging, which names the parts that it holds in its metadata
    2. remove those parts
    3. rename it to <merged>.parquet

A run that dies after 1 is completed by the next one; a reader never sees a row twice.
"""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from handloom.files import rename
from handloom.stages.tables.parts import Table, replace_part

MANY = 8  # parts of a bucket that are worth merging
SMALL_BYTES = 16 << 20  # a part from this size on is left as it is
LARGE_BYTES = 64 << 20  # a merged part stays below this, so that it fits in memory
_SOURCES = b"handloom.merged_from"


def merge_parts(table: Table) -> None:
    """Merge a finished table's small parts, bucket by bucket."""
    by_bucket: dict[str, list[Path]] = {}
    for path in table.parts():
        if path.stat().st_size < SMALL_BYTES:
            by_bucket.setdefault(path.name.split("-")[0], []).append(path)
    for bucket, paths in by_bucket.items():
        if len(paths) >= MANY:
            for group in _groups(paths):
                _merge(table, bucket, group)
    complete_merges(table)


def complete_merges(table: Table) -> None:
    """Finish what a killed run had begun to merge; does nothing otherwise."""
    for path in sorted(table.folder.glob("*.parquet.merging")):
        for name in merged_from(path):
            (table.folder / name).unlink(missing_ok=True)
        rename(path, path.with_suffix(""))


def merged_from(path: Path) -> list[str]:
    """Names of the parts whose rows a part holds; empty for one that a worker wrote."""
    metadata = pq.read_schema(path).metadata or {}
    names: list[str] = json.loads(metadata.get(_SOURCES, "[]"))
    return names


def drop_repeated(table: Table, key: str) -> None:
    """Drop the rows whose key an earlier part of the bucket holds too.

    A worker that was given up for lost may have written its part after all, while others computed
    the same clips in batches of other names.

    Args:
        table: a table that nobody writes to.
        key: the column that a batch's inputs are told apart by; all rows of one lie in one part.
    """
    for bucket in table.buckets():
        seen: set[str] = set()
        for path in table.parts(bucket):
            keys = pq.read_table(path, columns=[key])[key].to_pylist()
            stays = [value not in seen for value in keys]
            if not any(stays):
                path.unlink()
            elif not all(stays):
                replace_part(path, pq.read_table(path).filter(pa.array(stays)))
            seen.update(keys)


def _groups(paths: list[Path]) -> list[list[Path]]:
    """Runs of parts, each of less than `LARGE_BYTES`."""
    groups: list[list[Path]] = [[]]
    held = 0
    for path in paths:
        size = path.stat().st_size
        if groups[-1] and held + size > LARGE_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(path)
        held += size
    return [group for group in groups if len(group) > 1]


def _merge(table: Table, bucket: str, paths: list[Path]) -> None:
    rows = pa.concat_tables([pq.read_table(path) for path in paths])
    names = [path.name for path in paths]
    digest = hashlib.blake2b("/".join(names).encode(), digest_size=6).hexdigest()
    merged = table.folder / f"{bucket}-{table.fingerprint[:12]}-{digest}.parquet.merging"
    metadata = {_SOURCES: json.dumps(names)}
    replace_part(merged, rows.replace_schema_metadata(metadata))
