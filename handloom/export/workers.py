"""The parts of an export, written by this process or by several."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from handloom.errors import RunError
from handloom.export.clips import open_pictures, read_clips
from handloom.export.folder import Folder
from handloom.export.format import Format, Job
from handloom.export.parts import Part


@dataclass(frozen=True)
class Task:
    """What a process needs to write parts.

    Attributes:
        job: the export.
        form: its format.
        folder: where parts are recorded.
        data: where the media lie, if not where the run read them.
    """

    job: Job
    form: Format
    folder: Folder
    data: Path | None

    def write(self, part: Part) -> Part:
        """Write a part, and record it when its files are there."""
        clips = read_clips(self.job.tables, part.rows(self.job.listing), self.form.rate)
        files, facts = self.form.write_part(self.job, part, clips)
        self.folder.finish_part(part.number, files, facts)
        return part


def write_parts(task: Task, workers: int) -> Iterator[Part]:
    """Write the parts that are not there yet; yields each part as it is written.

    Args:
        task: the export.
        workers: how many processes; 0 is one for each core.

    Raises:
        RunError: a process was killed.
    """
    left = [part for part in task.job.parts if not task.folder.part(part.number)]
    count = min(workers or os.cpu_count() or 1, len(left))
    if count <= 1:
        yield from map(task.write, left)
        return
    yield from _spread(task, left, count)


class _Own:
    """The task of a worker process."""

    task: ClassVar[Task]


def _spread(task: Task, parts: Sequence[Part], count: int) -> Iterator[Part]:
    bare = replace(task, job=replace(task.job, pictures=None))  # what is open stays in its process
    context = multiprocessing.get_context("spawn")  # decoders and locks do not survive a fork
    with ProcessPoolExecutor(count, context, _begin, (bare,)) as pool:
        futures = [pool.submit(_write, part) for part in parts]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise RunError(
                "a process of the export was killed, as if the memory had run out; run the same "
                "command again, with fewer --workers."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()  # nothing but finished parts counts


def _begin(task: Task) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command itself ends its workers
    pictures = open_pictures(task.job.out, task.data) if task.form.opens_media else None
    _Own.task = replace(task, job=replace(task.job, pictures=pictures))


def _write(part: Part) -> Part:
    return _Own.task.write(part)
