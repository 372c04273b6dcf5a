"""Statistics of a LeRobot dataset: of each episode, and of all, by which policies normalise.

Names, shapes and meaning are those of `compute_stats.py` in LeRobot; quantiles are exact instead of
read from a histogram. T steps, D numbers a step.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.stages.media.display import FrameHWC

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
LEAST_IMAGES, MOST_IMAGES, POWER = 100, 10_000, 0.75
LARGE, SMALL = (
    300,
    150,
)  # pixels of the longer side: larger pictures are thinned to about the second

Stats = dict[str, Any]
"""`min`, `max`, `mean`, `std`, `count` and QUANTILES, as nested lists."""


def of_values(values: NDArray[Any]) -> Stats:
    """Statistics of an episode's column.

    Args:
        values: [T] or [T, D]; each statistic has D numbers, of [T] one.
    """
    rows = values.reshape(len(values), -1).astype(np.float64)
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(axis=0).tolist(),
        "max": rows.max(axis=0).tolist(),
        "mean": rows.mean(axis=0).tolist(),
        "std": rows.std(axis=0).tolist(),
        "count": [len(rows)],
        **{name: row.tolist() for name, row in zip(QUANTILES, quantiles, strict=True)},
    }


class ImageStatistics:
    """Statistics of an episode's pictures of a camera, from some of them, [3, 1, 1] in 0 to 1.

    A colour has 256 values, so that counts of these are all that is needed.

    Args:
        frames: how many the episode has.
    """

    def __init__(self, frames: int) -> None:
        wanted = max(min(LEAST_IMAGES, frames), min(int(frames**POWER), MOST_IMAGES))
        self._wanted = set(np.round(np.linspace(0, frames - 1, wanted)).astype(int).tolist())
        self._counts = np.zeros((3, 256), np.int64)
        self._seen = 0

    def add(self, frame_hwc: FrameHWC) -> None:
        """Count the next picture, uint8 [H, W, 3], if it is one of the sample."""
        if self._seen in self._wanted:
            height, width = frame_hwc.shape[:2]
            every = max(height, width) // SMALL if max(height, width) >= LARGE else 1
            thin = frame_hwc[::every, ::every]
            self._counts += [np.bincount(thin[..., c].ravel(), minlength=256) for c in range(3)]
        self._seen += 1

    def stats(self) -> Stats:
        """The statistics; `count` is that of the sampled pictures."""
        levels, total = np.arange(256) / 255, self._counts.sum(axis=1)
        mean = self._counts @ levels / total
        square = self._counts @ levels**2 / total
        ends = np.cumsum(self._counts, axis=1)
        found = {
            "min": [levels[np.flatnonzero(row)[0]] for row in self._counts],
            "max": [levels[np.flatnonzero(row)[-1]] for row in self._counts],
            "mean": mean.tolist(),
            "std": np.sqrt(np.maximum(square - mean**2, 0)).tolist(),
        } | {
            name: [levels[np.searchsorted(row, q * row[-1])] for row in ends]
            for name, q in QUANTILES.items()
        }
        shaped = {name: [[[float(x)]] for x in values] for name, values in found.items()}
        return {**shaped, "count": [len(self._wanted)]}


def flattened(stats: dict[str, Stats]) -> dict[str, Any]:
    """Columns `stats/<feature>/<statistic>` of an episode's row."""
    return {f"stats/{f}/{n}": value for f, one in stats.items() for n, value in one.items()}


def merged(stats: Sequence[Stats]) -> Stats:
    """Statistics of all episodes from those of each, as LeRobot aggregates them.

    Quantiles are the means of the episodes', weighted by their steps: so do LeRobot's own tools, by
    which datasets are merged and split.
    """
    count = np.array([one["count"][0] for one in stats], np.float64)
    total = count.sum()

    def column(name: str) -> NDArray[np.float64]:
        return np.array([one[name] for one in stats], np.float64)

    def weighted(values: NDArray[np.float64]) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = np.tensordot(count, values, axes=1) / total
        return mean

    mean = weighted(column("mean"))
    variance = weighted(column("std") ** 2 + (column("mean") - mean) ** 2)
    return {
        "min": column("min").min(axis=0).tolist(),
        "max": column("max").max(axis=0).tolist(),
        "mean": mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        "count": [int(total)],
        **{name: weighted(column(name)).tolist() for name in QUANTILES},
    }


def gathered(columns: Iterable[dict[str, list[Any]]]) -> dict[str, Stats]:
    """Statistics of all episodes by feature, from the columns `stats/…` of their tables.

    Each table is merged by itself first, so that memory does not depend on the episodes.
    """
    of_tables: dict[str, list[Stats]] = {}
    for table in columns:
        features = dict.fromkeys(name.rsplit("/", 1)[0] for name in table)
        for feature in features:
            names = [n for n in table if n.rsplit("/", 1)[0] == feature]
            rows = zip(*(table[n] for n in names), strict=True)
            episodes = [
                dict(zip((n.rsplit("/", 1)[1] for n in names), r, strict=True)) for r in rows
            ]
            of_tables.setdefault(feature.removeprefix("stats/"), []).append(merged(episodes))
    return {feature: merged(stats) for feature, stats in of_tables.items()}
