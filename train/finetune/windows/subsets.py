"""Small parts of a robot dataset: a few episodes of each task, always the same ones."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from handloom.errors import UserError


@dataclass(frozen=True)
class PerTask:
    """At most so many episodes of each task (GR-2 trains on 50 and on 400).

    Those with the smallest hash of (seed, clip id). So the choice depends neither on the order of
    the episodes nor on how they lie in shards, the 50 of a task are among its 400, and episodes
    that are added later replace few of them. A task with fewer episodes gives all of them.

    Args:
        episodes: of each task.
        seed: another seed, another choice.
    """

    episodes: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise UserError(f"{self.episodes} episodes of each task are no subset; give 1 or more.")

    def choose(self, tasks: Sequence[str], clip_ids: Iterable[str]) -> list[bool]:
        """Mask of the chosen episodes, from their tasks and clip ids."""
        of_task: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
        for number, (task, clip_id) in enumerate(zip(tasks, clip_ids, strict=True)):
            of_task[task].append((self._rank(clip_id), number))
        kept = {n for ranked in of_task.values() for _, n in sorted(ranked)[: self.episodes]}
        return [number in kept for number in range(len(tasks))]

    def _rank(self, clip_id: str) -> bytes:
        return hashlib.blake2b(f"{self.seed}/{clip_id}".encode(), digest_size=8).digest()
