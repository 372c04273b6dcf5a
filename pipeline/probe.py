"""A small run on a sample of a dataset's own clips: what its clips cost on this machine.

The sample is drawn by hash from runs of neighbouring clips, as batches hold them: clips of one
video share its decoding. What is measured is the run that `curate` makes, Ray and all, in a
temporary folder.
"""

import heapq
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from handloom.errors import UserError
from handloom.pipeline import output
from handloom.pipeline.job import Job
from handloom.pipeline.spent import Spent
from handloom.stages.datasets.source import SourceEpisode, SourceVideo
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import effort, read_marker

Source = SourceVideo | SourceEpisode
WATCH_S = 0.5


@dataclass(frozen=True)
class Sample:
    """Some runs of neighbouring clips: it takes them out of the sources that `ingest` lists.

    Attributes:
        runs: numbers of the runs that are taken of each unit.
        run_clips: clips of a run; a unit whose clips are only cut later is one run.
    """

    runs: dict[str, frozenset[int]]
    run_clips: int

    def __call__(self, source: Source) -> Source | None:
        """The part of a source that is in the sample; None where nothing is."""
        runs = self.runs.get(source.unit)
        if runs is None or not isinstance(source, SourceVideo) or source.raw is not None:
            return source if runs else None
        kept = [span for n, span in enumerate(source.spans) if n // self.run_clips in runs]
        return replace(source, spans=tuple(kept))


@dataclass
class Measured:
    """What a stage did in the sample's run.

    Attributes:
        entered: clips that came to it.
        seconds: of a whole stage, where no worker ran it.
        spent: what batches of its workers took.
        stored_bytes: its parts on disk.
        gpus: GPUs, or the part of one, that each worker had.
    """

    entered: int = 0
    seconds: float = 0.0
    spent: Spent = field(default_factory=Spent)
    stored_bytes: int = 0
    gpus: float = 0.0


@dataclass
class Probe:
    """The sample's run.

    Attributes:
        listed: clips that the sources of the sample list, about.
        runs: runs of clips in the sample.
        ingested: clips that they turned out to be.
        kept: clips that went into shards.
        stages: what each stage did, in the order of the data flow.
        shard_bytes: of all shards.
        wall_s: from start to end.
        workers: cores that worked.
        peak_bytes: most memory of all its processes together.
    """

    listed: int
    runs: int
    ingested: int
    kept: int
    stages: dict[str, Measured]
    shard_bytes: int
    wall_s: float
    workers: int
    peak_bytes: int


def choose(sources: Iterator[Source], clips: int, run_clips: int) -> tuple[Sample, int]:
    """A sample of about so many clips, and how many clips the chosen sources list.

    Runs of clips are ranked by a hash, so that the same dataset has the same sample, whatever the
    order of its annotations.
    """
    heap: list[tuple[int, str, int, int]] = []  # the run of the highest rank first
    held = 0
    for source in sources:
        if source.reason or getattr(source, "error", ""):
            continue
        for number, count in enumerate(_runs(source, run_clips)):
            heapq.heappush(heap, (-_rank(source.unit, number), source.unit, number, count))
            held += count
            while held - heap[0][3] >= clips:
                held -= heapq.heappop(heap)[3]
    runs: dict[str, set[int]] = {}
    for _, unit, number, _ in heap:
        runs.setdefault(unit, set()).add(number)
    return Sample({unit: frozenset(numbers) for unit, numbers in runs.items()}, run_clips), held


def _runs(source: Source, run_clips: int) -> list[int]:
    """Clips of each run of a source."""
    if not isinstance(source, SourceVideo) or source.raw is not None:
        return [source.clips]
    usable = [not span.reason for span in source.spans]
    return [
        max(1, sum(usable[start : start + run_clips])) for start in range(0, len(usable), run_clips)
    ]


def _rank(unit: str, number: int) -> int:
    digest = blake2b(f"{number}/{unit}".encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def probe(job: Job, clips: int) -> Probe:
    """Run the whole of `curate` on a sample of the dataset's clips, in a temporary folder.

    Args:
        job: the run that is planned; nothing is written to its folders.
        clips: size of the sample, about.

    Raises:
        UserError: no clip can be read.
    """
    from handloom.pipeline import dag  # Ray

    sample, listed = choose(
        iter(job.config.ingest.at(job.data).sources()), clips, job.config.run.batch_clips
    )
    if not sample.runs:
        raise UserError(
            f"--plan.probe finds no clip to try below {job.data}: the annotations list none whose "
            "file is there; see the counts above."
        )
    runs = sum(map(len, sample.runs.values()))
    print(
        f"trying {listed:,} clips, {runs} runs of neighbouring ones, in a temporary folder",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="handloom-plan-") as folder:
        small = replace(job, out=Path(folder) / "out", sample=sample, retry_failed=False)
        started = time.monotonic()
        # What the run says is not the plan: it goes where progress goes.
        with redirect_stdout(sys.stderr), output.claimed(small) as is_ours, _watched() as peak:
            dag.curate(small, is_ours)
        wall_s = time.monotonic() - started
        return _read(small, listed, runs, wall_s, peak[0])


def _read(job: Job, listed: int, runs: int, wall_s: float, peak_bytes: int) -> Probe:
    counted = funnel.count(job.tables)
    stages = {}
    for name in job.flow:
        table, marker = job.tables[name], read_marker(job.folder(name))
        stages[name] = Measured(
            counted.stages[name].entered,
            effort(job.folder(name))[1],
            Spent.of(marker.get("spent")),
            sum(path.stat().st_size for path in table.parts()),
            marker.get("gpus", 0.0),
        )
    shards = sum(path.stat().st_size for path in job.folder("pack").glob("*/*.*"))
    workers = job.config.run.workers or job.config.run.num_cpus or os.cpu_count() or 1
    return Probe(
        listed, runs, counted.ingested, counted.kept, stages, shards, wall_s, workers, peak_bytes
    )


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Yields a list with the most memory that this process and its children held meanwhile."""
    import psutil  # comes with Ray

    peak, ends = [0], threading.Event()

    def watch() -> None:
        while not ends.wait(WATCH_S):
            held = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    held += process.memory_info().rss - getattr(process.memory_info(), "shared", 0)
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], held)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ends.set()
        thread.join()
