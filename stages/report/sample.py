"""Random samples of a stream of clips, the same ones whenever the same clips come."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

T = TypeVar("T")
Ranks = npt.NDArray[np.uint64]

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
        self.add_all(pa.array([clip_id]), lambda _: [value])

    def add_all(self, clip_ids: pa.Array, values: Callable[[list[int]], list[T]]) -> None:
        """Add clips; `values` makes those of some from their places, and is asked of few."""
        self.total += len(clip_ids)
        found = ranks(clip_ids, self.seed)
        places = np.arange(len(found))
        if len(self._drawn) == self.most:
            places = np.flatnonzero(found < np.uint64(-self._drawn[0][0]))
        if len(places) > self.most:
            places = places[np.argpartition(found[places], self.most - 1)[: self.most]]
        if len(places):
            for place, value in zip(places.tolist(), values(places.tolist()), strict=True):
                self._draw(int(found[place]), clip_ids[place].as_py(), value)

    def merge(self, other: "Sample[T]") -> None:
        """Add all that was added to another sample, of the same size and seed."""
        self.total += other.total
        for negative, clip_id, value in other._drawn:
            self._draw(-negative, clip_id, value)

    def values(self) -> list[T]:
        """The values drawn, in random order."""
        return [value for _, _, value in sorted(self._drawn, key=lambda entry: -entry[0])]

    def _draw(self, rank: int, clip_id: str, value: T) -> None:
        entry = -rank, clip_id, value
        if len(self._drawn) < self.most:
            heapq.heappush(self._drawn, entry)
        elif entry[0] > self._drawn[0][0]:
            heapq.heapreplace(self._drawn, entry)


def ranks(clip_ids: pa.Array, seed: int) -> Ranks:
    """A hash of seed and id of each clip, uint64 [N]: eight bytes of the id after the other go
    through SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    2014)."""
    found = np.zeros(len(clip_ids), np.uint64)
    if not len(clip_ids):
        return found
    _, offsets, data = clip_ids.cast(pa.string()).buffers()
    bounds = np.frombuffer(offsets, np.int32)[clip_ids.offset :][: len(clip_ids) + 1]
    letters = np.frombuffer(data or b"", np.uint8)
    sizes = np.diff(bounds)
    for size in np.unique(sizes).tolist():  # mostly one: ids are hashes of 20 digits
        rows = np.flatnonzero(sizes == size)
        padded = np.zeros((len(rows), -(-size // 8) * 8), np.uint8)
        if len(rows) == len(sizes):
            padded[:, :size] = letters[bounds[0] : bounds[-1]].reshape(-1, size)
        else:
            padded[:, :size] = letters[bounds[rows][:, None] + np.arange(size)]
        state = _mixed(np.full(len(rows), seed, np.uint64) ^ _mixed(np.full(1, size, np.uint64)))
        for word in padded.view("<u8").T:
            state = _mixed(state ^ word)
        found[rows] = state
    return found


def _mixed(z: Ranks) -> Ranks:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Ranks = z ^ (z >> np.uint64(31))
    return mixed
