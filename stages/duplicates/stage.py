"""The `duplicates` stage: clips of nearly the same footage, within the run and in other runs.

Nothing is dropped here: `select` compares the similarities with its threshold. Of two
near-duplicates the better one is to be kept: one of another run before one of this run, a held-out
one before one of train, then the one with more pixels, then the one with the smaller id.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from handloom.errors import UserError
from handloom.places import place
from handloom.stages.duplicates.clip_numbers import Source
from handloom.stages.duplicates.outcome import duplicate_rows
from handloom.stages.duplicates.rows import DuplicateRow
from handloom.stages.duplicates.shuffle import Shuffle, plan_shuffle
from handloom.stages.duplicates.steps import Task, remove, steps
from handloom.stages.stage import TableStage
from handloom.stages.tables.parts import Table, Tables, open_tables
from handloom.stages.tables.rows import Row

FOLDER = "_shuffle"  # beside the parts of the table; readers skip names with an underscore
FRAME_BYTES = 2300.0  # its files take at most for a frame: benchmarks/bench_duplicates_scale.py


@dataclass(frozen=True)
class Duplicates(TableStage):
    """The `duplicates` stage and its options."""

    name: ClassVar[str] = "duplicates"
    code_version: ClassVar[int] = 3
    row_type: ClassVar[type[Row]] = DuplicateRow
    reads: ClassVar[dict[str, type[Row]]] = {"hands": Row}

    min_similarity: float = 0.3
    """Pairs of clips with a lower similarity, 0 to 1, are not stored."""
    against: tuple[Path, ...] = ()
    """Output folders of other runs: clips like those that they kept count as duplicates here."""

    def settings(self) -> dict[str, Any]:
        """The options; another run counts by the state of its `select` table, not by its path."""
        states = [_selected(place(out)).state() for out in self.against]
        return super().settings() | {"against": states}

    def rows(self, tables: Tables) -> Iterator[tuple[str, pa.Table]]:
        """Rows of all clips of this run, bucket by bucket, after comparing each with each other."""
        for tasks in self.steps(tables):
            for task in tasks:
                task()
        shuffle = self._shuffle(tables)
        if shuffle.has_own_clips:
            yield from duplicate_rows(shuffle)
            remove(shuffle)

    def steps(self, tables: Tables) -> Iterator[list[Task]]:
        """The comparison as tasks, those of a step after those of the one before.

        What is done is not named again; `rows` does what is left.
        """
        shuffle = self._shuffle(tables)
        if shuffle.has_own_clips:
            yield from steps(shuffle)

    def work_bytes(self, tables: Tables) -> float:
        """Bytes on disk that the tasks' files take at most, about."""
        hands, frames = tables["hands"].listed(), 0
        for bucket in hands.buckets():
            rows = hands.columns(["status", "times_s"], [bucket])
            times = rows.filter(pc.equal(rows["status"], "ok"))["times_s"]
            frames += pc.sum(pc.list_value_length(times)).as_py() or 0
        return FRAME_BYTES * frames

    def _shuffle(self, tables: Tables) -> Shuffle:
        others = [Source(open_tables(place(out)), is_own=False) for out in self.against]
        folder = tables["hands"].folder.with_name(self.name) / FOLDER
        return plan_shuffle(folder, [Source(tables, is_own=True), *others], self.settings())


def _selected(out: Path) -> Table:
    """The `select` table of another run. Raises UserError where it has none."""
    tables = open_tables(out)
    if "select" not in tables:
        raise UserError(
            f"--duplicates.against {out} is a run without a `select` table, which tells what it "
            "kept; finish it with `handloom curate`, or leave it out."
        )
    return tables["select"]
