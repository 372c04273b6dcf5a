"""Two small runs on samples of a dataset's own clips: what its clips cost on this machine.

One is on single clips, from as many videos as can be: it tells which share of the clips comes to
each stage. The other is on runs of neighbouring clips, as batches hold them: clips of one video
share its decoding. Together they tell what a clip costs and what opening a file does. Samples are
drawn by hash; what is measured is the run that `curate` makes, Ray and all, in a temporary folder.
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
from handloom.stages.stage import Divided
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
        stored: of each run, the bytes of its table (as the seconds) and the parts (as the files).
        gpus: GPUs, or the part of one, that each worker had.
        work_bytes: its files on disk while it worked, at most, about.
    """

    entered: int = 0
    seconds: float = 0.0
    spent: Spent = field(default_factory=Spent)
    stored: Spent = field(default_factory=Spent)
    gpus: float = 0.0
    work_bytes: float = 0.0


@dataclass
class Probe:
    """What the samples' runs told.

    Attributes:
        listed: clips that the sources of the single clips list, about.
        runs: their number.
        ingested: clips that they turned out to be.
        kept: clips that went into shards.
        stages: what each stage did, in the order of the data flow.
        shard_bytes: of all shards.
        wall_s: from start to end.
        fixed_s: of these no worker was at work.
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
    fixed_s: float
    workers: int
    peak_bytes: int

    @property
    def tried(self) -> int:
        """Clips of the samples that some worker looked at."""
        return int(self.stages["ingest"].spent.clips)

    def with_rates_of(self, other: "Probe") -> "Probe":
        """The shares and sizes found here, and what batches took in both."""
        stages = {
            name: replace(
                stage,
                spent=stage.spent + other.stages[name].spent,
                stored=stage.stored + other.stages[name].stored,
            )
            for name, stage in self.stages.items()
        }
        return replace(
            self,
            stages=stages,
            wall_s=self.wall_s + other.wall_s,
            fixed_s=min(self.fixed_s, other.fixed_s),
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
        )


@dataclass
class Listed:
    """How many clips the annotations list, in how many runs of neighbouring ones, and in how many
    videos or episodes."""

    clips: int = 0
    runs: int = 0
    units: int = 0

    @property
    def files(self) -> float:
        """Files that a batch opens, for each of its clips."""
        return self.runs / max(1, self.clips)


def choose(
    sources: Iterator[Source], clips: int, run_clips: int, whole: Listed | None = None
) -> tuple[Sample, int]:
    """A sample of about so many clips, and how many clips the chosen sources list.

    Runs of clips are ranked by a hash, so that the same dataset has the same sample, whatever the
    order of its annotations.

    Args:
        sources: of the whole dataset.
        clips: size of the sample.
        run_clips: neighbouring clips of which all are drawn or none.
        whole: is given the size of the dataset.
    """
    heap: list[tuple[int, str, int, int]] = []  # the run of the highest rank first
    held = 0
    for source in sources:
        if source.reason or getattr(source, "error", ""):
            continue
        for number, count in enumerate(_runs(source, run_clips)):
            heapq.heappush(heap, (-_rank(source.unit, number), source.unit, number, count))
            held += count
            if whole is not None:
                whole.clips, whole.runs = whole.clips + count, whole.runs + 1
                whole.units += number == 0
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


def probe(job: Job, clips: int) -> tuple[Probe, Listed]:
    """Run the whole of `curate` on samples of the dataset's clips, in a temporary folder.

    Args:
        job: the run that is planned; nothing is written to its folders.
        clips: of both samples together, about.

    Returns:
        What was found, and what the annotations list.

    Raises:
        UserError: no clip can be read.
    """
    whole, size = Listed(), job.config.run.batch_clips
    single, listed = choose(_sources(job), -(-clips // 2), 1)
    if not single.runs:
        raise UserError(
            f"--plan.probe finds no clip to try below {job.data}: the annotations list none whose "
            "file is there; see the counts above."
        )
    together, beside = choose(_sources(job), clips // 2, size, whole)
    print(
        f"trying {listed:,} single clips, then {beside:,} neighbouring ones, in a temporary folder",
        flush=True,
    )
    found = _try(job, single, listed)
    if together.runs:
        found = found.with_rates_of(_try(job, together, beside))
    return found, whole


def _sources(job: Job) -> Iterator[Source]:
    return iter(job.config.ingest.at(job.data).sources())


def _try(job: Job, sample: Sample, listed: int) -> Probe:
    """What a run on a sample was like."""
    from handloom.pipeline import dag  # Ray

    with tempfile.TemporaryDirectory(prefix="handloom-plan-") as folder:
        small = replace(job, out=Path(folder) / "out", sample=sample, retry_failed=False)
        started = time.monotonic()
        # What the run says is not the plan: it goes where progress goes.
        with redirect_stdout(sys.stderr), output.claimed(small) as is_ours, _watched() as peak:
            dag.curate(small, is_ours)
        wall_s = time.monotonic() - started
        return _read(small, listed, sum(map(len, sample.runs.values())), wall_s, peak[0])


def _read(job: Job, listed: int, runs: int, wall_s: float, peak_bytes: int) -> Probe:
    counted = funnel.count(job.tables)
    stages = {}
    for name in job.flow:
        table, marker = job.tables[name], read_marker(job.folder(name))
        entered, parts, stored = counted.stages[name].entered, table.parts(), Spent()
        stored.add(entered, sum(path.stat().st_size for path in parts), len(parts))
        stage = job.stages[name]
        stages[name] = Measured(
            entered,
            effort(job.folder(name))[1],
            Spent.of(marker.get("spent")),
            stored,
            marker.get("gpus", 0.0),
            stage.work_bytes(job.tables) if isinstance(stage, Divided) else 0.0,
        )
    shards = sum(path.stat().st_size for path in job.folder("pack").glob("*/*.*"))
    workers = job.config.run.workers or job.config.run.num_cpus or os.cpu_count() or 1
    at_work_s = sum(stage.spent.seconds for stage in stages.values()) / workers
    return Probe(
        listed, runs, counted.ingested, counted.kept, stages, shards, wall_s,
        max(0.0, wall_s - at_work_s), workers, peak_bytes,
    )  # fmt: skip


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
