"""Random samples of a stream of clips, the same ones whenever the same clips come."""

import hashlib
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

SEED = 0


@dataclass
class Sample(Generic[T]):
    """Up to `most` of the values added, drawn without replacement, and how many there were.

    Those with the smallest hashes of seed and clip id are drawn: neither the order in which clips
    come nor how they were chosen by their ids matters.
    """

    most: int
    seed: int = SEED
    total: int = 0
    """Values added so far."""
    _drawn: list[tuple[int, str, T]] = field(default_factory=list)
    """A heap of (negative rank, clip id, value); the one to give up next is on top."""

    def add(self, clip_id: str, value: T) -> None:
        """Add the value of a clip; each clip may be added once."""
        self.total += 1
        self._draw(self._rank(clip_id), clip_id, value)

    def add_all(self, clip_ids: Sequence[str], value: Callable[[int], T]) -> None:
        """Add clips; `value` makes that of one from its place, and is asked of few."""
        self.total += len(clip_ids)
        ranks = [self._rank(clip_id) for clip_id in clip_ids]
        for place in heapq.nsmallest(self.most, range(len(ranks)), key=ranks.__getitem__):
            if len(self._drawn) == self.most and ranks[place] >= -self._drawn[0][0]:
                return
            self._draw(ranks[place], clip_ids[place], value(place))

    def values(self) -> list[T]:
        """The values drawn, in random order."""
        return [value for _, _, value in sorted(self._drawn, key=lambda entry: -entry[0])]

    def _draw(self, rank: int, clip_id: str, value: T) -> None:
        entry = -rank, clip_id, value
        if len(self._drawn) < self.most:
            heapq.heappush(self._drawn, entry)
        elif entry[0] > self._drawn[0][0]:
            heapq.heapreplace(self._drawn, entry)

    def _rank(self, clip_id: str) -> int:
        digest = hashlib.blake2b(f"{self.seed} {clip_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")
