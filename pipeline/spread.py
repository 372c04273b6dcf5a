"""Steps over all clips, divided by buckets: tasks on all cores of the cluster, or done here."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

from handloom.listings import forget_listings
from handloom.pipeline.crew import Crew
from handloom.pipeline.job import Job
from handloom.pipeline.losses import DEATHS, is_loss, is_of_cluster
from handloom.pipeline.record import Record
from handloom.pipeline.worker import Counts
from handloom.places import trust
from handloom.stages.report import gallery as report
from handloom.stages.report.page import selection
from handloom.stages.stage import Piecewise, Stage
from handloom.stages.tables.parts import Table, Tables, listed

T = TypeVar("T")

PIECES_HERE = 16  # up to so many are done by this process, in which time a worker would start
PIECES_A_TASK = 8  # of `select`: a second of work


def spread(data: Path, tasks: Sequence[Callable[[], T]], here: bool) -> Iterator[T]:
    """Results of tasks, in their order; each takes a core, and one that was lost is done again.

    Args:
        data: the run's data folder.
        tasks: which can be pickled.
        here: do all in this process.
    """
    if here:
        yield from (task() for task in tasks)
        return
    running: deque[tuple[Callable[[], T], Any]] = deque()
    for task in tasks:
        running.append((task, _remote.remote(data, task)))
        # Two tasks a core keep all cores busy while results are taken in order.
        while len(running) > max(4, 2 * int(ray.cluster_resources().get("CPU", 0))):
            yield _result(data, *running.popleft())
    while running:
        yield _result(data, *running.popleft())


def _result(data: Path, task: Callable[[], T], ref: Any) -> T:
    deaths = 0
    while True:
        try:
            result: T = ray.get(ref)
            return result
        except Exception as error:
            deaths += not is_of_cluster(error)
            if not is_loss(error) or deaths >= DEATHS:
                raise (error.cause if isinstance(error, RayTaskError) else error) from None
            ref = _remote.remote(data, task)


@ray.remote(num_cpus=1, max_retries=0)
def _remote(data: Path, task: Callable[[], Any]) -> Any:
    forget_listings()
    trust(data)
    return task()


def kept_rows(stage: Stage, table: Table, record: Record) -> int:
    """Number of rows that an earlier run has written from the same rows; others are removed.

    Args:
        stage: one of tables.
        table: its table.
        record: which has not begun, and whose facts name the rows that the stage will read.
    """
    inputs = record.facts["inputs"]
    if isinstance(stage, Piecewise) and record.inputs == inputs:
        return table.row_count()
    # Nothing may take the rows for those of these inputs, should this end here.
    record.facts["inputs"] = ""
    record.begin()
    table.clear()
    record.facts["inputs"] = inputs
    return 0


def write_pieces(job: Job, name: str, crew: Crew) -> Iterator[Counts]:
    """Write a stage's table, but for the pieces that are there."""
    stage, table, tables = job.stages[name], job.tables[name], listed(job.tables)
    assert isinstance(stage, Piecewise)
    there = set(table.buckets())
    left = [buckets for buckets in stage.pieces(tables) if not there.issuperset(buckets)]
    here = len(left) <= PIECES_HERE
    if not here:
        crew.dismiss()  # the tasks take its cores
    size = 1 if here else PIECES_A_TASK
    some = [left[start : start + size] for start in range(0, len(left), size)]
    given = tables if here else job.tables
    return spread(job.data, [partial(_write, stage, given, table, one) for one in some], here)


def _write(stage: Piecewise, tables: Tables, table: Table, pieces: list[list[str]]) -> Counts:
    counts, found = Counter[str](), listed(tables)
    for buckets in pieces:
        for some in stage.store(stage.piece(found, buckets), table):
            counts.update(some)
    return counts


def gathered(job: Job, crew: Crew) -> report.Gallery | None:
    """What the report shows of a large run; None where it had better be gathered at once."""
    tables, select = listed(job.tables), selection(job.stages)
    pieces = report.pieces(tables)
    if len(pieces) == 1:
        return None
    crew.dismiss()
    gallery = report.Gallery.of(tables, select)
    tasks = [partial(report.gather_some, job.tables, select, buckets) for buckets in pieces]
    for part in spread(job.data, tasks, here=False):
        gallery.merge(part)
    return gallery
