"""Folding the parts of a table while a stage works, so that its folder stays small.

After every thousand parts a thread of the stage's process folds, or waits for another process to
do it (`pipeline/folding.py`). A round lists the folder, which holds some thousands of files, so it
need not be told their names. Small folds are folded again, as in a log-structured merge tree: a row
is written again once for every factor of `RADIX` in the number of its bucket's parts.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, groupby, islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

import pyarrow as pa

from handloom.listings import forget_listings
from handloom.stages.tables import merging
from handloom.stages.tables.folds import (
    SOURCES,
    Leaf,
    files_of,
    fold_name,
    leaf_count,
    leaves_of,
    read_leaves,
    write_fold,
)
from handloom.stages.tables.listing import (
    MERGING,
    end_replacing,
    go_on_replacing,
    part_names,
    replace_files,
)
from handloom.stages.tables.parts import Table

EVERY = 1024  # parts that are written between two rounds
MOST = 4096  # files after a round
RADIX = 16  # files of like size in a bucket that are folded into one
ROUND = 8192  # files that a round folds at most: the record of what is replaced names them


_rewriting: defaultdict[Path, Lock] = defaultdict(Lock)


def rewriting(table: Table) -> Lock:
    """A table's lock in this process, which a round holds: for others who rewrite its parts."""
    return _rewriting[table.folder]


class Folding:
    """Has a table's parts folded as they are written, by a thread that calls `fold`.

    Args:
        table: of a stage that works; who else rewrites its parts holds `rewriting`.
        fold: does one round, as `fold_parts` does.
    """

    def __init__(self, table: Table, fold: Callable[[Table], int] | None = None) -> None:
        self.table, self.fold = table, fold or fold_parts
        self.waiting = EVERY  # so that a round looks at what a killed run has left
        self.ends = False
        self.round: Future[None] | None = None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="fold")

    def __enter__(self) -> Self:
        self.advance(0)
        return self

    def advance(self, parts: int = 1) -> None:
        """Count parts that were written; raises what a round raised.

        Waits where parts come faster than they are folded.
        """
        self.waiting += parts
        if self.round is not None and (self.round.done() or self.waiting >= MOST):
            ended, self.round = self.round, None
            ended.result()
        if self.round is None and self.waiting >= EVERY:
            self.waiting = 0
            self.round = self.thread.submit(self._rounds)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the round that is under way; raises what it raised, if nothing else did."""
        self.ends = True
        self.thread.shutdown(wait=True)
        if self.round is not None and error is None:
            self.round.result()

    def _rounds(self) -> None:
        while self.fold(self.table) >= ROUND and not self.ends:
            pass


def has_work(table: Table) -> bool:
    """Whether a round would fold anything."""
    forget_listings(table.folder)
    return bool(chosen(part_names(table.folder, table.fingerprint)))


def fold_parts(table: Table) -> int:
    """One round: fold where a bucket has many files, or the table; returns the files folded.

    A killed round is completed by `end_killed_round` while the stage goes on, and by
    `merging.complete_merges` when it begins again.
    """
    with rewriting(table):
        return _fold_parts(table)


def end_killed_round(table: Table) -> None:
    """Complete a round whose process is gone, or undo it; others may read and write meanwhile.

    As long as nothing is recorded as replaced, all parts lie there, and the folds can go.
    """
    forget_listings(table.folder)
    go_on_replacing(table.folder)
    for path in table.folder.glob(f"*.parquet{MERGING}*"):
        path.unlink(missing_ok=True)


def _fold_parts(table: Table) -> int:
    end_replacing(table.folder)
    forget_listings(table.folder)
    replaced: dict[str, list[str]] = {}
    folded = 0
    for bucket, names in chosen(part_names(table.folder, table.fingerprint)).items():
        name = fold_name(bucket, table.fingerprint, names)
        sources = _fold(table.folder, name, names)
        if sources:
            replaced[name] = sources
            folded += len(sources)
        if folded >= ROUND:
            break
    replace_files(table.folder, replaced)
    return folded


def _fold(folder: Path, name: str, names: Sequence[str]) -> list[str]:
    """Write the fold of some parts under the name that it has until they are gone.

    Returns:
        Names of the parts whose rows it holds; empty where there is no fold of one part.
    """
    found = _foldable(leaf for one in names for leaf in leaves_of(folder / one))
    first = list(islice(found, 2))
    if len(files_of(leaf for leaf, _ in first)) < 2:
        return []
    return files_of(write_fold(folder / (name + MERGING), chain(first, found)))


def chosen(names: Sequence[str]) -> dict[str, list[str]]:
    """What to fold: names of parts by bucket.

    Args:
        names: of all parts of a table, sorted.
    """
    buckets = {key: list(found) for key, found in groupby(names, lambda n: n.partition("-")[0])}
    due = {bucket: many for bucket, found in buckets.items() if (many := _many_alike(found))}
    files = len(names) - sum(len(found) - 1 for found in due.values())
    if files > MOST:  # nearly every bucket has some: the fullest go whole
        for bucket in sorted(buckets, key=lambda one: len(buckets[one]), reverse=True):
            if files <= MOST // 2:
                break
            files -= len(buckets[bucket]) - len(due.get(bucket, [""]))
            due[bucket] = buckets[bucket]
    return due


def _many_alike(names: Sequence[str]) -> list[str]:
    """The files of a bucket that are as small as `RADIX` others of it, or smaller."""
    tiers: dict[int, list[str]] = {}
    for name in names:
        tiers.setdefault(_tier(name), []).append(name)
    full = [tier for tier, found in tiers.items() if len(found) >= RADIX]
    return [name for name in names if full and _tier(name) <= max(full)]


def _tier(name: str) -> int:
    """How often `RADIX` divides the number of a part's leaves."""
    tier, leaves = 0, leaf_count(name)
    while leaves >= RADIX:
        tier, leaves = tier + 1, leaves // RADIX
    return tier


def _foldable(leaves: Iterable[Leaf]) -> Iterator[tuple[Leaf, pa.Table]]:
    """Leaves of one schema, with their rows; not those that are large, or merged already."""
    schema = None
    small = (leaf for leaf in leaves if leaf.size < merging.SMALL_BYTES)
    for leaf, rows in read_leaves(small):
        if leaf.group is None and SOURCES in (rows.schema.metadata or {}):
            continue
        schema = schema or rows.schema
        if schema.equals(rows.schema):
            yield leaf, rows
