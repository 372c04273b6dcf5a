"""Work that goes ahead of its gate: encoding on GPUs while hands are still looked for on cores.

`select` needs all clips, since it rejects near-duplicates. Nearly all that it rejects shows in a
clip's own scores, though: a clip that passes by these is encoded before the others are looked at.
What is rejected after all was encoded for nothing, and is told.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from handloom.listings import forget_listings
from handloom.pipeline.batch import Batch
from handloom.pipeline.batches import count_remaining, drop_outdated, in_batches, remaining
from handloom.pipeline.job import Job
from handloom.pipeline.pool import Pool
from handloom.pipeline.progress import Reporter, has_ended
from handloom.stages.stage import Foresight
from handloom.stages.tables.folding import rewriting
from handloom.stages.tables.folds import is_fold, leaf_names, leaves_of, merged_from, read_leaves
from handloom.stages.tables.inputs import Inputs, read_inputs
from handloom.stages.tables.outcomes import coming
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import INPUTS

LOOK_EVERY_S = 2.0


def going_ahead(job: Job, resources: Mapping[str, float]) -> dict[str, str]:
    """Stages whose workers are on GPUs and that go ahead of their gates.

    Args:
        job: the run.
        resources: of the cluster.

    Returns:
        For each the table from whose rows it is foreseen which clips will come to it.
    """
    if not (job.config.run.gpu_share and resources.get("GPU", 0)):
        return {}
    wanting = [name for name, stage in job.stages.items() if stage.wants_gpu]
    return {name: gate.foresees for name in wanting if (gate := _foresight(job, name))}


def _foresight(job: Job, name: str) -> Foresight | None:
    """The gate of a stage, if it has foresight and the stage reads nothing that comes later."""
    gate, stage = job.stages[job.flow[name]], job.stages[name]
    if not isinstance(gate, Foresight) or stage.concurrency > 1:
        return None
    order = list(job.flow)
    known = order[: order.index(gate.foresees) + 1]
    return gate if set(stage.reads) <= set(known) else None


class Unseen:
    """The rows of a table that were not looked at yet, while others write it and fold its parts."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.seen: set[str] = set()

    def parts(self) -> dict[str, list[Path]]:
        """Parts with rows that were not looked at, by bucket.

        Parts that were merged from old ones are left out: the table is about to end.
        """
        found = defaultdict(list)
        forget_listings(self.table.folder)
        for path in self.table.parts():
            with suppress(FileNotFoundError):  # folded meanwhile
                if self._is_new(path):
                    found[path.name.split("-")[0]].append(path)
        return found

    def _is_new(self, path: Path) -> bool:
        if path.name in self.seen:
            return False
        if is_fold(path.name):
            return not self.seen.issuperset(leaf_names([path]))
        return self.seen.isdisjoint(merged_from(path))

    def seen_clips(self, parts: Iterable[Path]) -> set[str]:
        """Clips of some parts that were looked at before their parts were folded."""
        leaves = [leaf for path in parts if is_fold(path.name) for leaf in leaves_of(path)]
        old = read_leaves((leaf for leaf in leaves if leaf.name in self.seen), ["clip_id"])
        return {one for _, rows in old for one in rows["clip_id"].to_pylist()}

    def mark(self, names: Iterable[str]) -> None:
        """Note that rows were looked at.

        Args:
            names: those of `leaf_names`, taken before the rows were read.
        """
        self.seen.update(names)


class Ahead:
    """The batches of a stage that goes ahead of its gate.

    Args:
        job: the run.
        name: the stage.
        pool: works on the batches.
        reporter: is told how many there are, once the gate has decided.
    """

    def __init__(self, job: Job, name: str, pool: Pool, reporter: Reporter) -> None:
        gate = _foresight(job, name)
        assert gate is not None
        self.job, self.name, self.gate = job, name, gate
        self.source = job.tables[gate.foresees]
        self.pool, self.reporter = pool, reporter
        self.unseen = Unseen(self.source)

    def batches(self) -> Iterator[Batch | None]:
        """Batches as they can be worked on; None while there is none, so that the pool waits."""
        yield from self._foreseen()
        while not (self.pool.is_idle and self._has_ended(self.gate.name)):
            yield None
        forget_listings()
        with rewriting(self.job.tables[self.name]):
            drop_outdated(self.job, self.name, self.reporter.throw_away)
        left = count_remaining(self.job, self.name) or 0
        self.reporter.line.total = self.reporter.line.done + left
        yield from remaining(self.job, self.name)

    def _foreseen(self) -> Iterator[Batch | None]:
        """What the gate will hardly reject, until the table that it decides from is finished."""
        size = self.job.config.run.batch_clips
        while not self._has_ended(self.gate.foresees):
            for bucket, parts in self.unseen.parts().items():
                try:
                    names = leaf_names(parts)
                    found = self._inputs(bucket, parts)
                except FileNotFoundError:  # parts were folded meanwhile: they are found again
                    continue
                self.unseen.mark(names)
                if found:
                    yield from in_batches(bucket, found, size)
            looked = time.monotonic()
            while time.monotonic() - looked < LOOK_EVERY_S:
                yield None

    def _inputs(self, bucket: str, parts: list[Path]) -> Inputs | None:
        """What is read of the clips in some parts that the gate will hardly reject."""
        stage, tables = self.job.stages[self.name], self.job.tables
        clip_ids = self.gate.foresee(tables, bucket, parts) - self.unseen.seen_clips(parts)
        if not clip_ids:
            return None
        source = self.source.of_parts(parts)
        found = read_inputs(
            stage,
            {**tables, self.source.folder.name: source},
            bucket,
            pa.array(sorted(clip_ids), pa.string()),
        )
        stored = tables[self.name].columns(["clip_id", INPUTS], [bucket])
        known = set(zip(stored["clip_id"].to_pylist(), stored[INPUTS].to_pylist(), strict=True))
        ids, digests = found.clips["clip_id"].to_pylist(), found.digests().tolist()
        new = [n for n, one in enumerate(zip(ids, digests, strict=True)) if one not in known]
        return found.take(pa.array(new, pa.int64())) if new else None

    def _has_ended(self, stage: str) -> bool:
        return has_ended(self.job.out, self.job.run_id, stage)


def rejected_after_all(job: Job, name: str) -> int:
    """Rows of a stage whose clips its gate has rejected."""
    table = job.tables[name]
    return sum(
        len(
            table.values("clip_id", bucket).difference(coming(job.tables, name, bucket).to_pylist())
        )
        for bucket in table.buckets()
    )
