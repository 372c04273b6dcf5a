"""Tasks that a stage divides its work into, on the cluster's cores or in this process."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from handloom.listings import forget_listings
from handloom.pipeline.crew import Crew
from handloom.pipeline.job import Job
from handloom.pipeline.losses import DEATHS, is_loss, is_of_cluster
from handloom.places import trust
from handloom.stages.stage import Divided

CLIPS_HERE = 256  # up to so many are compared by this process, before workers would have started
Task = Callable[[], None]


def work_divided(job: Job, stage: Divided, crew: Crew) -> Iterator[int]:
    """Do a stage's tasks, those of each step on all cores.

    Yields:
        The number of tasks done, each time one is.
    """
    here = job.tables["hands"].row_count() <= CLIPS_HERE
    if not here:
        crew.dismiss()  # the tasks take cores
    done = 0
    for tasks in stage.steps(job.tables):
        for _ in map(_do, tasks) if here else _spread(job, tasks):
            done += 1
            yield done
        forget_listings()


def _do(task: Task) -> None:
    task()


def _spread(job: Job, tasks: Sequence[Task]) -> Iterator[None]:
    running: deque[tuple[Task, Any]] = deque()
    for task in tasks:
        running.append((task, _remote.remote(job, task)))
        # Two tasks a core keep all cores busy while results are taken in order.
        while len(running) > max(4, 2 * int(ray.cluster_resources().get("CPU", 0))):
            _take(job, *running.popleft())
            yield
    while running:
        _take(job, *running.popleft())
        yield


def _take(job: Job, task: Task, ref: Any) -> None:
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
            ref = _remote.remote(job, task)


@ray.remote(num_cpus=1, max_retries=0)
def _remote(job: Job, task: Task) -> None:
    forget_listings()
    trust(job.data)
    task()
