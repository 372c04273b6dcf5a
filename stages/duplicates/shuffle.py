"""A shuffle: how the search for near-duplicates is divided, and where its files lie.

The steps are in steps.py, what their tasks do in tasks.py.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from handloom.stages.duplicates.candidates import ENTRY
from handloom.stages.duplicates.clip_numbers import Group, Numbers, Source, read_numbers
from handloom.stages.duplicates.fingerprints import PEAKS, VIEWS
from handloom.stages.tables.columns import bucket_groups
from handloom.stages.tables.parts import Tables

VERSION = 1  # of the files
ENTRIES_A_FRAME = PEAKS * (1 + len(VIEWS))


@dataclass(frozen=True)
class Sizes:
    """How much one task takes on; the result does not depend on it."""

    group_bytes: int = 64 << 20
    """Bytes of the `hands` table on disk that are filed and fetched by one task."""
    key_bytes: int = 96 << 20
    """Entries that are joined by one task, about; an eighth of them are in memory at a time."""
    clips: int = 1 << 12
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
