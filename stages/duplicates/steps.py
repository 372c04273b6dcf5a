"""The search for near-duplicates divided into tasks, whose results are files: a shuffle.

    number      one task       clips and frames in the order of the ids
    file        by buckets     frames and views under their keys        -> by key
    join        by key         candidates: frames and views alike       -> by clip
    nearest     by clip        the pairs that are to be compared        -> by clip, by buckets
    fetch       by buckets     fingerprints of the clips in such pairs
    compare     by clip        similarities                             -> by buckets

A task's result is one file, written whole. Steps that are done leave a mark, and what only they
read is removed. A killed run goes on with the tasks whose files are missing; another state of what
is read has a folder of another name.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from handloom.files import remove_temporaries, remove_tree, write_text
from handloom.places import is_remote
from handloom.stages.duplicates import tasks
from handloom.stages.duplicates.clip_numbers import are_numbered, number_clips
from handloom.stages.duplicates.partitions import is_complete
from handloom.stages.duplicates.shuffle import Shuffle

STEPS = ("number", "file", "join", "nearest", "fetch", "compare")
# What is no longer read once a step is done.
USED_UP = {"join": ("index", "views"), "fetch": ("wanted",), "compare": ("hits", "near", "frames")}


@dataclass(frozen=True)
class Task:
    """A piece of the work; tasks of one step depend on each other in nothing."""

    function: Callable[[Shuffle, int], None]
    shuffle: Shuffle
    number: int
    results: tuple[Path, ...]

    def __call__(self) -> None:
        """Do it."""
        self.function(self.shuffle, self.number)

    @property
    def is_done(self) -> bool:
        """Whether its files lie there."""
        return all(is_complete(path) for path in self.results)


def remove_others(shuffle: Shuffle) -> None:
    """Remove what shuffles of other states have left, and files that were cut off."""
    for path in list(shuffle.folder.parent.glob("*")):
        if path != shuffle.folder:
            remove_tree(path)
    remove_temporaries(shuffle.folder)


def remove(shuffle: Shuffle) -> None:
    """Remove all files, and the folders where nothing else lies."""
    remove_tree(shuffle.folder)
    is_there = not is_remote(shuffle.folder) and shuffle.folder.parent.is_dir()
    if is_there and not any(shuffle.folder.parent.iterdir()):
        shuffle.folder.parent.rmdir()


def steps(shuffle: Shuffle) -> Iterator[list[Task]]:
    """The tasks that are left to do, step by step; each step's must be done before the next."""
    remove_others(shuffle)
    done = [step for step in STEPS if shuffle.mark(step).exists()]
    if not done and not are_numbered(shuffle.folder):
        yield [Task(_number, shuffle, 0, ())]
    _finish(shuffle, "number")
    for step in STEPS[1:]:
        if not any(later in done for later in STEPS[STEPS.index(step) :]):
            left = [task for task in _tasks(shuffle, step) if not task.is_done]
            if left:
                yield left
        _finish(shuffle, step)


def _finish(shuffle: Shuffle, step: str) -> None:
    """Mark a step as done, and remove what nobody reads any more."""
    if not shuffle.mark(step).exists():
        write_text(shuffle.mark(step), "", sync=False)
    for kind in USED_UP.get(step, ()):
        for path in list(shuffle.folder.glob(f"{kind}-*")):
            path.unlink(missing_ok=True)


def _tasks(shuffle: Shuffle, step: str) -> list[Task]:
    groups = len(shuffle.groups)
    functions: dict[str, tuple[Callable[[Shuffle, int], None], int, tuple[str, ...]]] = {
        "file": (tasks.file_frames, groups, ("index", "views")),
        "join": (tasks.join_keys, shuffle.key_parts, ("hits",)),
        "nearest": (tasks.find_nearest, shuffle.clip_parts, ("near", "wanted")),
        "fetch": (tasks.fetch_frames, groups, ("frames", "spans")),
        "compare": (tasks.compare_pairs, shuffle.clip_parts, ("pairs",)),
    }
    function, count, kinds = functions[step]
    return [
        Task(function, shuffle, n, tuple(shuffle.path(kind, n) for kind in kinds))
        for n in range(count)
    ]


def _number(shuffle: Shuffle, _: int) -> None:
    number_clips(shuffle.sources, shuffle.groups, shuffle.folder)
