"""A pool of Ray actors that work through batches; a clip that kills its worker costs itself alone.

Ray Core instead of Ray Data: the driver holds one batch for each worker and nothing else, a part
is written by the worker that computed it, and no read task competes with the actors for the last
core (docs/decisions.md).
"""

import faulthandler
import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from handloom.errors import RunError
from handloom.pipeline.batch import Batch
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Row

Counts = Counter[str]


class _Worker:
    """One process with the stage's models loaded."""

    def __init__(
        self, stage: Stage, table: Table, attempts: dict[str, int], clip_timeout_s: float
    ) -> None:
        self.stage, self.table, self.attempts = stage, table, attempts
        self.clip_timeout_s = clip_timeout_s

    def setup(self) -> None:
        """Load the models; a method of its own, so that its errors reach the driver as they are."""
        self.stage.setup()

    def work(self, batch: Batch) -> Counts:
        """Compute a batch and write its part; a clip that takes too long ends the process."""
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
    table.write(batch.bucket, batch.name, rows, stage.row_type)
    return Counter(row.status for row in rows)


class Pool:
    """Workers of one stage.

    Args:
        stage: what they run.
        table: where they write.
        attempts: earlier attempts by clip id, of clips that are tried again.
        workers: their number.
        clip_timeout_s: seconds that a clip may take before its worker is ended; where a stage works
            on several at a time, the average of its batch.
        gpus: GPUs that each takes, or a part of one.
        cores: cores that each takes.
        concurrency: batches that a worker has at a time; by default as many as the stage wants.
    """

    def __init__(
        self,
        stage: Stage,
        table: Table,
        attempts: dict[str, int],
        workers: int,
        clip_timeout_s: float,
        concurrency: int | None = None,
        gpus: float = 0,
        cores: int = 1,
    ) -> None:
        self.gpus, self.cores = gpus, cores
        self.stage = stage.on("cuda" if gpus else "cpu", cores)
        self.table, self.attempts = table, attempts
        self.concurrency = concurrency or self.stage.concurrency
        self.workers: set[Any] = set()
        self.size, self.clip_timeout_s = workers, clip_timeout_s
        self.starting: dict[Any, Any] = {}  # ref of `setup` -> worker
        self.free: deque[Any] = deque()  # each worker once per batch that it can take
        self.running: dict[Any, _Running] = {}
        self.again: deque[Batch] = deque()

    def run(self, batches: Iterator[Batch]) -> Iterator[Counts]:
        """Work through the batches, yielding the counts of each as it is written."""
        try:
            for batch in batches:
                yield from self._until_free()
                self._submit(batch)
            while self.running or (self.again and self.concurrency == 1):
                if self.again and self.concurrency == 1:
                    yield from self._until_free()
                    self._submit(self.again.popleft())
                else:
                    yield from self._collect()
        finally:
            for worker in self.workers:
                ray.kill(worker)
        if self.again:  # which batch killed a worker shows where it has one at a time
            shared = self.stage, self.table, self.attempts, self.size, self.clip_timeout_s
            alone = Pool(*shared, concurrency=1, gpus=self.gpus, cores=self.cores)
            yield from alone.run(iter(self.again))

    def _until_free(self) -> Iterator[Counts]:
        while not self.free:
            if len(self.workers) < self.size:
                needs = {"num_cpus": self.cores, "num_gpus": self.gpus}
                actor = ray.remote(max_restarts=0, max_concurrency=self.concurrency, **needs)(
                    _Worker
                )
                worker = actor.remote(self.stage, self.table, self.attempts, self.clip_timeout_s)
                self.workers.add(worker)
                self.starting[worker.setup.remote()] = worker
            else:
                yield from self._collect()

    def _submit(self, batch: Batch) -> None:
        worker = self.free.popleft()
        # Workers end themselves at a clip that hangs; this is for those that cannot.
        limit = time.monotonic() + self.clip_timeout_s * len(batch.inputs)
        self.running[worker.work.remote(batch)] = _Running(worker, batch, limit)

    def _collect(self) -> Iterator[Counts]:
        """Wait for workers that have loaded their models or finished a batch."""
        done, _ = ray.wait([*self.starting, *self.running], timeout=1.0)
        for ref in done:
            if ref in self.starting:
                self._started(ref)
            else:
                yield from self._finished(ref)
        for job in self.running.values():
            if time.monotonic() > job.limit:
                ray.kill(job.worker)  # its batch then comes back as a RayActorError

    def _started(self, ref: Any) -> None:
        worker = self.starting.pop(ref)
        try:
            ray.get(ref)
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            raise RunError(f"a worker of {self.stage.name} died while starting: {error}") from None
        self.free.extend([worker] * self.concurrency)

    def _finished(self, ref: Any) -> Iterator[Counts]:
        job = self.running.pop(ref)
        try:
            counts = ray.get(ref)
        except (RayActorError, OutOfMemoryError) as error:
            self.workers.discard(job.worker)
            self.free = deque(worker for worker in self.free if worker != job.worker)
            yield from self._died(job.batch, error)
        except RayTaskError as error:
            raise error.cause from None
        else:
            self.free.append(job.worker)
            yield counts

    def _died(self, batch: Batch, error: Exception) -> Iterator[Counts]:
        """Give each input a worker alone, to find the one that kills it; record that one."""
        if len(batch.inputs) > 1 or self.concurrency > 1:
            self.again.extend(batch.split())
            return
        memory = " out of memory" if isinstance(error, OutOfMemoryError) else ""
        why = (
            f"the worker died{memory}, or this clip took too long, over {self.clip_timeout_s:g} s "
            "(--run.clip-timeout-s)"
        )
        rows = list(self.stage.failed(why, *batch.inputs[0]))
        yield write(self.stage, self.table, batch, rows, self.attempts)


@dataclass(frozen=True)
class _Running:
    worker: Any
    batch: Batch
    limit: float
