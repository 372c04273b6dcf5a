"""Tasks that a stage divides its work into, on the cluster's cores or in this process."""

from collections.abc import Iterator
from pathlib import Path

from handloom.listings import forget_listings
from handloom.pipeline.crew import Crew
from handloom.pipeline.spread import spread
from handloom.stages.stage import Divided
from handloom.stages.tables.parts import Tables

CLIPS_HERE = 256  # up to so many are compared by this process, before workers would have started


def work_divided(tables: Tables, data: Path, stage: Divided, crew: Crew) -> Iterator[int]:
    """Do a stage's tasks, those of each step on all cores.

    Args:
        tables: of the run.
        data: its data folder.
        stage: whose tasks.
        crew: workers of earlier stages, which end, since the tasks take their cores.

    Yields:
        The number of tasks done, each time one is.
    """
    here = tables["hands"].row_count() <= CLIPS_HERE
    if not here:
        crew.dismiss()
    done = 0
    for tasks in stage.steps(tables):
        for _ in spread(data, tasks, here):
            done += 1
            yield done
        forget_listings()
