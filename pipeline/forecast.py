"""Which stored rows a run would throw away, and why: said before anything goes."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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


def lost_to_settings(job: Job) -> Iterator[Loss]:
    """The tables whose rows were made with other settings."""
    for name in job.flow:
        if changes := job.changes(name):
            marker = read_marker(job.folder(name))
            rows = Table(job.folder(name), marker["fingerprint"]).row_count()
            yield Loss(name, rows, ", ".join(changes))


def lost_to_inputs(job: Job, renewed: set[str], say: Callable[[int], None]) -> list[Loss]:
    """Rows whose clips have other values now, of stages with the settings they had.

    Where `ingest` has to read the annotations anew, what it will make of them is found out first,
    without opening media. Of robot episodes it cannot be known before they are read.

    Args:
        job: the run, which does not go on meanwhile.
        renewed: stages that are made anew, by `lost_to_settings`.
        say: is given the number of clips that were looked at so far, now and then.
    """
    kept = [
        name
        for name, stage in job.stages.items()
        if name not in {*renewed, "ingest"}
        and not isinstance(stage, TableStage)
        and job.tables[name].parts()
    ]
    if not kept:
        return []
    ingest = job.stages["ingest"]
    if "ingest" not in renewed:
        return list(_outdated(job, kept, renewed, job.tables))
    if not isinstance(ingest, Ingest):
        why = "their episodes are read again and may have changed"
        return [Loss(name, job.tables[name].row_count(), why, is_bound=True) for name in kept]
    with tempfile.TemporaryDirectory() as folder:
        table = foreseen(ingest, Path(folder), say)
        return list(_outdated(job, kept, renewed, {**job.tables, "ingest": table}))


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
