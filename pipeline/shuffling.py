"""Tasks that a stage divides its work into, on the cluster's cores or in this process."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError

from handloom.listings import forget_listings
from handloom.pipeline.crew import Crew
from handloom.pipeline.losses import DEATHS, is_loss, is_of_cluster
from handloom.places import trust
from handloom.stages.stage import Divided
from handloom.stages.tables.parts import Tables

CLIPS_HERE = 256  # up to so many are compared by this process, before workers would have started
Task = Callable[[], None]


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
        for _ in map(_do, tasks) if here else _spread(data, tasks):
            done += 1
            yield done
        forget_listings()


def _do(task: Task) -> None:
    task()


def _spread(data: Path, tasks: Sequence[Task]) -> Iterator[None]:
    running: deque[tuple[Task, Any]] = deque()
    for task in tasks:
        running.append((task, _remote.remote(data, task)))
        # Two tasks a core keep all cores busy while results are taken in order.
        while len(running) > max(4, 2 * int(ray.cluster_resources().get("CPU", 0))):
            _take(data, *running.popleft())
            yield
    while running:
        _take(data, *running.popleft())
        yield


def _take(data: Path, task: Task, ref: Any) -> None:
    """Wait for a task; one that was lost is done again."""
    deaths = 0
    while True:
        try:
            ray.get(ref)
            return
        except Exception as error:
            deaths += not is_of_cluster(error)
            if not is_loss(error) or deaths >= DEATHS:
                raise (error.cause if isinstance(error, RayTaskError) else error) from None
            ref = _remote.remote(data, task)


@ray.remote(num_cpus=1, max_retries=0)
def _remote(data: Path, task: Task) -> None:
    forget_listings()
    trust(data)
    task()
