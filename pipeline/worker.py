"""What a worker of a pool does: load a stage's models, then compute batches and write their parts.

The module imports no stage, so that workers, which import it, start sooner.
"""

import faulthandler
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray

from handloom.listings import forget_listings
from handloom.pipeline.batch import Batch
from handloom.pipeline.sameness import Sameness
from handloom.places import fetch_ahead, is_remote, trust
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import INPUTS, Row

Counts = Counter[str]


class Worker:
    """One process with the models of a stage loaded, then of another: the actor of a pool."""

    def setup(
        self,
        stage: Stage,
        table: Table,
        attempts: dict[str, int],
        clip_timeout_s: float,
        expected: Sameness | None = None,
    ) -> str:
        """Check the node and load the models; returns the node's id.

        Args:
            stage: what it runs, on its device already (`Stage.on`).
            table: where it writes.
            attempts: earlier attempts by clip id, of clips that are tried again.
            clip_timeout_s: seconds that a clip may take before the process ends itself.
            expected: what its node must have in common with the run's; None checks nothing.
        """
        self.stage, self.table, self.attempts = stage, table, attempts
        self.clip_timeout_s = clip_timeout_s
        if expected:
            expected.check(stage, table)
        forget_listings()
        trust(stage.data)
        stage.setup()
        node_id: str = ray.get_runtime_context().get_node_id()
        return node_id

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function here, where libraries are loaded."""
        return function(*arguments)

    def work(self, batch: Batch) -> Counts:
        """Compute a batch and write its part; a clip that takes too long ends the process."""
        if is_remote(self.stage.data):
            fetch_ahead(self.stage.data, [one[0].media_path for one in batch.inputs])
        if self.stage.takes_batches:
            return work(self.stage, self.table, batch, self.attempts)
        rows = rows_in_time(self.stage, batch, self.clip_timeout_s)
        self.stage.flush()
        return write(self.stage, self.table, batch, rows, self.attempts)


def rows_in_time(stage: Stage, batch: Batch, clip_timeout_s: float) -> list[Row]:
    """A batch's rows, clip by clip; one that takes longer ends the process.

    The timer is faulthandler's, a thread in C, so that it fires while a decoder that never returns
    holds Python's lock.
    """
    rows: list[Row] = []
    with open(os.devnull, "w") as nowhere:
        try:
            for one in batch.inputs:
                faulthandler.dump_traceback_later(clip_timeout_s, exit=True, file=nowhere)
                rows += stage.batch([one])
        finally:
            faulthandler.cancel_dump_traceback_later()
    return rows


def work(stage: Stage, table: Table, batch: Batch, attempts: dict[str, int]) -> Counts:
    """Compute a batch and write its part; returns the number of rows by status."""
    rows = stage.batch(batch.inputs)
    stage.flush()
    return write(stage, table, batch, rows, attempts)


def write(
    stage: Stage, table: Table, batch: Batch, rows: list[Row], attempts: dict[str, int]
) -> Counts:
    """Write a batch's rows as one part; returns the number of rows by status."""
    rows = [
        replace(row, attempts=attempts[row.clip_id] + 1) if row.clip_id in attempts else row
        for row in rows
    ]
    digests = dict(zip(batch.keys, batch.digests, strict=bool(batch.digests)))
    added = {INPUTS: [digests.get(row.clip_id, 0) for row in rows]} if digests else None
    table.write(batch.bucket, batch.name, rows, stage.row_type, added)
    return Counter(row.status for row in rows)


def written(table: Table, batch: Batch) -> Counts | None:
    """The number of rows by status of a batch's part; None where there is no part."""
    statuses = table.part_values(batch.bucket, batch.name, "status")
    return None if statuses is None else Counter(statuses)
