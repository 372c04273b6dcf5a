"""Workers that go on from one pool to the next, so that a run starts few processes.

A worker's process takes a second to start, and torch two to load. A crew keeps the workers of the
pool that ended last: for the next one, and for the single tasks at a run's end. It keeps them for a
moment only, since a worker that waits holds its core.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

IDLE_S = 20.0


class Crew:
    """Workers of one core each; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[Any, int] = {}  # by worker, how many tasks it has; 0 where it is idle
        self._pools = 0  # that are running
        self._keeps = True  # workers that become idle
        self._changes = 0

    def open(self, takes: bool) -> None:
        """A pool begins; where it takes no worker from here, it needs the cores of the idle."""
        with self._lock:
            self._pools += 1
            self._keeps = self._keeps and takes
            self._changed()

    def close(self, workers: Sequence[Any]) -> None:
        """A pool ends; its idle workers are kept, unless another pool waits for their cores."""
        with self._lock:
            self._pools -= 1
            self._keeps = not self._pools
            self._tasks.update(dict.fromkeys(workers, 0))
            self._changed()

    def take(self) -> Any:
        """An idle worker for a pool; None where there is none."""
        with self._lock:
            worker = next(iter(self._idle()), None)
            self._tasks.pop(worker, None)
            self._changed()
        return worker

    def start(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        """Call a function in one of the workers; where there is none, in a task of one core.

        Returns:
            What waits for its result, once; it raises RayError where the process was lost.
        """
        with self._lock:
            worker = min(self._tasks, key=self._tasks.__getitem__, default=None)
            if worker is not None:
                self._tasks[worker] += 1
                self._changed()
        if worker is None:
            task = ray.remote(num_cpus=1, max_retries=0)(function).remote(*arguments)
            return lambda: ray.get(task)
        ref = worker.call.remote(function, *arguments)
        return lambda: self._result(worker, ref)

    def _result(self, worker: Any, ref: Any) -> Any:
        try:
            return ray.get(ref)
        except RayActorError:
            with self._lock:
                self._tasks.pop(worker, None)
            raise
        finally:
            self._done(worker)

    def dismiss(self) -> None:
        """End the workers as they become idle: whoever comes next needs their cores alone."""
        with self._lock:
            self._keeps = False
            self._changed()

    def _done(self, worker: Any) -> None:
        with self._lock:
            if worker in self._tasks:
                self._tasks[worker] -= 1
                self._changed()

    def _idle(self) -> list[Any]:
        return [worker for worker, tasks in self._tasks.items() if not tasks]

    def _changed(self) -> None:
        """End the idle workers, or see to it that they end when nobody has come for them."""
        self._changes += 1
        if not self._keeps:
            for worker in self._idle():
                del self._tasks[worker]
                ray.kill(worker)
        if self._tasks:
            timer = threading.Timer(IDLE_S, self._expire, [self._changes])
            timer.daemon = True
            timer.start()

    def _expire(self, changes: int) -> None:
        if changes == self._changes and not any(self._tasks.values()):
            self.dismiss()
