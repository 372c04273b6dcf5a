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

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from handloom.files import remove_temporaries, write_text
from handloom.places import is_remote
from handloom.stages.duplicates.candidates import ENTRY
from handloom.stages.duplicates.clip_numbers import (
    Group,
    Numbers,
    Source,
    are_numbered,
    number_clips,
    read_numbers,
)
from handloom.stages.duplicates.fingerprints import BYTES, PEAKS, VIEWS
from handloom.stages.duplicates.partitions import is_complete
from handloom.stages.tables.columns import bucket_groups
from handloom.stages.tables.parts import Tables

VERSION = 1  # of the files
ENTRIES_A_FRAME = PEAKS * (1 + len(VIEWS))
STEPS = ("number", "file", "join", "nearest", "fetch", "compare")
# What is no longer read once a step is done.
USED_UP = {"join": ("index", "views"), "fetch": ("wanted",), "compare": ("hits", "near", "frames")}


@dataclass(frozen=True)
class Sizes:
    """How much one task takes on; the result does not depend on it."""

    group_bytes: int = 64 << 20
    """Bytes of the `hands` table on disk that are filed and fetched by one task."""
    key_bytes: int = 96 << 20
    """Entries that are joined by one task, about; an eighth of them are in memory at a time."""
    clips: int = 1 << 13
    """Clips whose pairs are compared by one task, at most."""
    clip_tasks: int = 64
    """Tasks that compare, where there are enough clips for each."""
    least_clips: int = 256
    """Clips that are worth a task."""


@dataclass(frozen=True)
class Shuffle:
    """The work and where it lies."""

    folder: Path
    sources: tuple[Source, ...]
    groups: tuple[Group, ...]
    min_similarity: float
    sizes: Sizes

    @cached_property
    def numbers(self) -> Numbers:
        """Numbers of clips and frames, once they are written."""
        return read_numbers(self.folder)

    @property
    def key_parts(self) -> int:
        """Number of partitions of keys."""
        size = self.numbers.frames * ENTRIES_A_FRAME * ENTRY.itemsize
        return max(1, -(-size // self.sizes.key_bytes))

    @property
    def clip_parts(self) -> int:
        """Number of partitions of clips."""
        return max(1, -(-self.numbers.clips // self.clips_a_part))

    @property
    def clips_a_part(self) -> int:
        """Number of clips of a partition of them."""
        enough = max(self.sizes.least_clips, -(-self.numbers.clips // self.sizes.clip_tasks))
        return min(self.sizes.clips, enough)

    @property
    def has_own_clips(self) -> bool:
        """Whether this run has rows to compare."""
        return any(self.sources[group.source].is_own for group in self.groups)

    def clips_in(self, part: int) -> tuple[int, int]:
        """First clip of a partition, and that behind its last one."""
        return part * self.clips_a_part, (part + 1) * self.clips_a_part

    def path(self, kind: str, number: int) -> Path:
        """File of one task of a step."""
        return self.folder / f"{kind}-{number:05d}"

    def paths(self, kind: str, count: int) -> list[Path]:
        """Files of all tasks of a step."""
        return [self.path(kind, number) for number in range(count)]

    def mark(self, step: str) -> Path:
        """File that says that a step is done."""
        return self.folder / f"{step}.done"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "numbers"}


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


def plan_shuffle(
    folder: Path, sources: Sequence[Source], settings: Mapping[str, Any], sizes: Sizes | None = None
) -> Shuffle:
    """What there is to do for the present rows.

    Args:
        folder: where folders of shuffles lie; others than this one's are removed.
        sources: the runs, this one first.
        settings: options of the stage, of which `min_similarity` counts here.
        sizes: of the tasks.
    """
    sizes = sizes or Sizes()
    groups = [
        Group(number, tuple(buckets))
        for number, source in enumerate(sources)
        for buckets in bucket_groups(source.tables["hands"], sizes.group_bytes)
    ]
    sources = [replace(source, tables=_read_of(source)) for source in sources]
    states = [
        [(name, table.fingerprint, table.state()) for name, table in source.tables.items()]
        for source in sources
    ]
    facts = [VERSION, states, dict(settings), vars(sizes)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
    place = folder / digest[:16]
    return Shuffle(place, tuple(sources), tuple(groups), settings["min_similarity"], sizes)


def _read_of(source: Source) -> Tables:
    """The tables that are read of a run, their folders listed once."""
    names = ["hands", "ingest"] if source.is_own else ["select", "hands", "ingest"]
    gate = source.tables[names[0]].gate
    while gate:  # it says which clips count still
        names.append(gate)
        gate = source.tables[gate].gate
    return {name: source.tables[name].listed() for name in dict.fromkeys(names)}


def remove_others(shuffle: Shuffle) -> None:
    """Remove what shuffles of other states have left, and files that were cut off."""
    if is_remote(shuffle.folder):
        return
    for path in shuffle.folder.parent.glob("*"):
        if path != shuffle.folder:
            shutil.rmtree(path, ignore_errors=True)
    remove_temporaries(shuffle.folder)


def remove(shuffle: Shuffle) -> None:
    """Remove all files, and the folders where nothing else lies."""
    for path in list(shuffle.folder.glob("*")):
        path.unlink(missing_ok=True)
    if not is_remote(shuffle.folder):
        shutil.rmtree(shuffle.folder, ignore_errors=True)
        if shuffle.folder.parent.is_dir() and not any(shuffle.folder.parent.iterdir()):
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
            tasks = [task for task in _tasks(shuffle, step) if not task.is_done]
            if tasks:
                yield tasks
        _finish(shuffle, step)


def _finish(shuffle: Shuffle, step: str) -> None:
    """Mark a step as done, and remove what nobody reads any more."""
    if not shuffle.mark(step).exists():
        write_text(shuffle.mark(step), "", sync=False)
    for kind in USED_UP.get(step, ()):
        for path in list(shuffle.folder.glob(f"{kind}-*")):
            path.unlink(missing_ok=True)


def _tasks(shuffle: Shuffle, step: str) -> list[Task]:
    from handloom.stages.duplicates import tasks

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


def disk_bytes(frames: int) -> int:
    """Bytes that a shuffle needs on disk at most, about: entries, then fingerprints."""
    return frames * max(ENTRIES_A_FRAME * ENTRY.itemsize, BYTES + 8)
