"""Which stored rows a run would throw away, and why: said before anything goes."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from handloom.pipeline.job import Job
from handloom.stages.ingest.foresight import foreseen
from handloom.stages.ingest.videos import Ingest
from handloom.stages.stage import TableStage
from handloom.stages.tables.inputs import all_outdated
from handloom.stages.tables.parts import Table, Tables, read_marker


@dataclass(frozen=True)
class Loss:
    """Rows of one stage that do not count any more.

    Attributes:
        stage: its name.
        rows: their number.
        why: the settings that differ, or what else has changed.
        is_bound: whether it is only known that there are no more than so many.
    """

    stage: str
    rows: int
    why: str
    is_bound: bool = False

    def __str__(self) -> str:
        most = "up to " if self.is_bound else ""
        return f"{self.stage}: {most}{self.rows:,} rows thrown away, since {self.why}"


@dataclass(frozen=True)
class Renewal:
    """Clips of annotations that `ingest` reads anew, beside the stored ones.

    Attributes:
        new: without a stored row.
        gone: stored ones that are not listed any more.
        unopened: files that were not opened yet, whose clips are in neither count.
    """

    new: int
    gone: int
    unopened: int

    def __str__(self) -> str:
        files = f"; besides, {self.unopened:,} files to open first" if self.unopened else ""
        most = "up to " if self.unopened else ""  # theirs look as if they were gone
        gone = f", {most}{self.gone:,} stored ones not listed any more" if self.gone else ""
        return f"ingest: {self.new:,} new clips{gone}{files}"


def lost_to_settings(job: Job) -> Iterator[Loss]:
    """The tables whose rows were made with other settings."""
    for name in job.flow:
        if changes := job.changes(name):
            marker = read_marker(job.folder(name))
            rows = Table(job.folder(name), marker["fingerprint"]).row_count()
            yield Loss(name, rows, ", ".join(changes))


def lost_to_inputs(
    job: Job, renewed: set[str], say: Callable[[int], None]
) -> tuple[list[Loss], Renewal | None]:
    """Rows whose clips have other values now, of stages with the settings they had.

    Where `ingest` has to read the annotations anew, what it will make of them is found out first,
    without opening media. Of robot episodes it cannot be known before they are read.

    Args:
        job: the run, which does not go on meanwhile.
        renewed: stages that are made anew, by `lost_to_settings`.
        say: is given the number of clips that were looked at so far, now and then.

    Returns:
        The losses, and what the annotations list now where videos' are read anew.
    """
    kept = [
        name
        for name, stage in job.stages.items()
        if name not in {*renewed, "ingest"}
        and not isinstance(stage, TableStage)
        and job.tables[name].parts()
    ]
    if not kept:
        return [], None
    ingest = job.stages["ingest"]
    if "ingest" not in renewed:
        return list(_outdated(job, kept, renewed, job.tables)), None
    if not isinstance(ingest, Ingest):
        why = "their episodes are read again and may have changed"
        return [Loss(name, job.tables[name].row_count(), why, True) for name in kept], None
    with tempfile.TemporaryDirectory() as folder:
        table, unopened = foreseen(ingest, Path(folder), say)
        stored = Table(job.folder("ingest"), read_marker(job.folder("ingest"))["fingerprint"])
        losses = list(_outdated(job, kept, renewed, {**job.tables, "ingest": table}))
        new, gone = _differing(stored, table)
        return losses, Renewal(new, gone, unopened)


def _differing(stored: Table, now: Table) -> tuple[int, int]:
    """Clips that are in one table alone: in the later one, and in the earlier one."""
    new = gone = 0
    for bucket in {*stored.buckets(), *now.buckets()}:
        before, after = (
            table.columns(["clip_id"], [bucket])["clip_id"].cast(pa.string())
            for table in (stored, now)
        )
        both = pc.sum(pc.is_in(after, value_set=before)).as_py() or 0
        new, gone = new + len(after) - both, gone + len(before) - both
    return new, gone


def _outdated(job: Job, names: list[str], renewed: set[str], tables: Tables) -> Iterator[Loss]:
    """Losses of some stages, in the order of the data flow, with `ingest` as it will be."""
    for name in names:
        stage = job.stages[name]
        if sources := sorted(renewed & (stage.reads.keys() - {"ingest"})):
            why = f"rows of {', '.join(sources)} may change"
            yield Loss(name, tables[name].row_count(), why, is_bound=True)
            continue
        rows = sum(len(clip_ids) for _, clip_ids in all_outdated(stage, tables))
        if rows:
            yield Loss(name, rows, "their clips have changed")
