"""Statistics of states and actions in the manifest, by which training normalises them.

They are computed from the written shards and merged in the order of the shards, so that their bytes
depend on the shards alone. Memory depends on neither episodes nor steps. N rows of D numbers.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.tokenize.shards.files import LocalFiles
from handloom.tokenize.shards.open import open_shard

VERSION = 1  # raise it when the same shards would give another manifest: runs are packed again
SAMPLED_ROWS = 65_536  # the 1 % quantile of so many rows lies between the 0.9 and 1.1 % of all
STATISTICS = ("mean", "std", "min", "max", "q01", "q99")

Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]
_Steps = tuple[NDArray[np.float32], NDArray[np.float32], Keys, NDArray[np.bool_]]


@dataclass(frozen=True)
class Spread:
    """Running statistics of rows of numbers.

    Mean and squares are merged by the formula of Chan, Golub and LeVeque (1979). Quantiles are
    those of the rows with the smallest keys: a uniform sample that does not depend on the order of
    the rows or on how they were divided, and exact up to `SAMPLED_ROWS` rows.

    Attributes:
        count: number of rows, N.
        mean: float64 [D].
        squares: sums of squared deviations from the mean, float64 [D].
        low: smallest values, float64 [D].
        high: largest values, float64 [D].
        keys: keys of the sampled rows, ascending.
        rows: the sampled rows, float32 [at most SAMPLED_ROWS, D].
    """

    count: int
    mean: Floats
    squares: Floats
    low: Floats
    high: Floats
    keys: Keys
    rows: NDArray[np.float32]

    @staticmethod
    def of(rows: NDArray[np.float32], keys: Keys) -> "Spread":
        """Statistics of rows [N, D], at least one, each with a random key."""
        values = rows.astype(np.float64)
        mean = values.mean(axis=0)
        squares = ((values - mean) ** 2).sum(axis=0)
        kept = np.argsort(keys, kind="stable")[:SAMPLED_ROWS]
        low, high = values.min(axis=0), values.max(axis=0)
        return Spread(len(rows), mean, squares, low, high, keys[kept], rows[kept])

    def merged(self, other: "Spread") -> "Spread":
        """Statistics of the rows of both."""
        count = self.count + other.count
        difference = other.mean - self.mean
        keys = np.concatenate([self.keys, other.keys])
        kept = np.argsort(keys, kind="stable")[:SAMPLED_ROWS]
        return Spread(
            count,
            self.mean + difference * (other.count / count),
            self.squares + other.squares + difference**2 * (self.count * other.count / count),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            keys[kept],
            np.concatenate([self.rows, other.rows])[kept],
        )

    def facts(self) -> dict[str, Any]:
        """The manifest's entry: the count, and a list of D numbers for each of STATISTICS."""
        low, high = np.quantile(self.rows.astype(np.float64), [0.01, 0.99], axis=0)
        std = np.sqrt(self.squares / self.count)
        columns = (self.mean, std, self.low, self.high, low, high)
        lists = {n: c.tolist() for n, c in zip(STATISTICS, columns, strict=True)}
        return {"count": self.count} | lists


@dataclass(frozen=True)
class Kind:
    """Properties that episodes must share for one model to learn from them."""

    action_kind: str
    hz: float
    state_width: int
    action_width: int

    def __str__(self) -> str:
        widths = f"state of {self.state_width}, action of {self.action_width}"
        return f"{self.action_kind} at {self.hz:g} Hz, {widths}"


@dataclass(frozen=True)
class Trajectories:
    """Kinds, views and statistics of the episodes of some shards.

    Attributes:
        kinds: number of episodes of each kind.
        views: names, in the order in which they first came.
        state: statistics of all steps of train; None without steps, and where kinds are mixed.
        action: statistics of the steps that are not idle.
    """

    kinds: Counter[Kind] = field(default_factory=Counter)
    views: tuple[str, ...] = ()
    state: Spread | None = None
    action: Spread | None = None

    def merged(self, other: "Trajectories") -> "Trajectories":
        """Summary of the episodes of both, these before the others."""
        kinds = self.kinds + other.kinds
        views = tuple(dict.fromkeys(self.views + other.views))
        if len(kinds) > 1:  # numbers of different meaning have no common mean
            return Trajectories(kinds, views)
        return Trajectories(
            kinds, views, _merged(self.state, other.state), _merged(self.action, other.action)
        )

    def facts(self) -> dict[str, Any]:
        """The manifest's entry `trajectories`, see docs/shard-format.md; {} without episodes."""
        views = list(self.views)
        if len(self.kinds) > 1:
            listed = sorted(f"{kind}: {count} episodes" for kind, count in self.kinds.items())
            return {"views": views, "mixed": listed}
        spreads = {"state": self.state, "action": self.action}
        statistics = {n: s.facts() if s else {"count": 0} for n, s in spreads.items()}
        for kind in self.kinds:
            return {"action_kind": kind.action_kind, "hz": kind.hz, "views": views} | statistics
        return {}


def shard_trajectories(path: Path, split: str) -> Trajectories:
    """Read the trajectories of one shard.

    Args:
        path: the tar; its index lies beside it.
        split: split of the shard. Statistics are of train alone: training must not know those of
            `val`.
    """
    shard = open_shard(LocalFiles(path.parent, [path.name]), 0, str(path))
    trajectories, pending = Trajectories(), list[_Steps]()
    for row, clip_id in enumerate(shard.keys(np.arange(len(shard)))):
        state, action = shard.array(row, "state"), shard.array(row, "action")
        if state is None or action is None:
            continue
        meta = shard.meta(row)
        kind = Kind(meta["action_kind"], meta["fps"], state.shape[1], action.shape[1])
        trajectories = trajectories.merged(Trajectories(Counter([kind]), tuple(meta["views"])))
        if len(trajectories.kinds) > 1:
            pending.clear()
        elif split == "train":
            moving = np.ones(len(state), bool)
            moving[meta.get("idle_steps", [])] = False
            pending.append((state, action, step_keys(clip_id, len(state)), moving))
            if sum(len(keys) for _, _, keys, _ in pending) >= SAMPLED_ROWS:
                trajectories = trajectories.merged(_take(pending))
    return trajectories.merged(_take(pending))


def step_keys(clip_id: str, steps: int) -> Keys:
    """A random number for each step of an episode, a function of clip and step: uint64 [steps].

    SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014),
    started by a hash of the clip.
    """
    start = int.from_bytes(hashlib.blake2b(clip_id.encode(), digest_size=8).digest(), "little")
    z = np.uint64(start) ^ (
        np.arange(1, steps + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    )
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys: Keys = z ^ (z >> np.uint64(31))
    return keys


def _take(steps: list[_Steps]) -> Trajectories:
    """Statistics of the steps of some episodes; the list is emptied."""
    if not steps:
        return Trajectories()
    state, action, keys, moving = (np.concatenate(part) for part in zip(*steps, strict=True))
    steps.clear()
    actions = Spread.of(action[moving], keys[moving]) if moving.any() else None
    return Trajectories(state=Spread.of(state, keys), action=actions)


def _merged(one: Spread | None, other: Spread | None) -> Spread | None:
    return one.merged(other) if one and other else one or other
