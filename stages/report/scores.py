"""The report's section on scores: the distribution of each, its threshold, the clips next to it.

The clips just above and below a threshold show whether it is right; `select` can then be run again
with another one in seconds.
"""

import heapq
import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom import svg
from handloom.stages.select import Criterion
from handloom.stages.tables.parts import Table, Tables
from handloom.stages.tables.rows import Clip

BINS = 50
SHOWN = 4  # examples on either side of a threshold
SAME = 0.0005  # scores that differ by less are printed alike
MOST_REPEATS = 50.0  # end of the axis of a count; the last bin holds what lies beyond
WIDTH, HEIGHT = 640, 110  # pixels of a histogram

Example = tuple[float, str, str, float]  # distance from the threshold, clip id, bucket, score


@dataclass
class Side:
    """The clips on one side of a threshold."""

    count: int = 0
    furthest: float = 0.0
    """Largest distance from the threshold."""
    nearest: list[Example] = field(default_factory=list)
    """The clips nearest to the threshold, nearest first."""

    def add(self, examples: list[Example], distances: npt.NDArray[np.float64]) -> None:
        """Add clips: the distances of all, and those that may be among the nearest."""
        self.count += len(distances)
        self.furthest = max(self.furthest, float(distances.max(initial=0.0)))
        self.nearest = heapq.nsmallest(SHOWN, self.nearest + examples)

    def merge(self, other: "Side") -> None:
        """Add further clips."""
        self.count += other.count
        self.furthest = max(self.furthest, other.furthest)
        self.nearest = heapq.nsmallest(SHOWN, self.nearest + other.nearest)

    def just(self) -> list[Example]:
        """The nearest clips that are nearer than others: none where all scores are the same."""
        return [one for one in self.nearest if one[0] < self.furthest - SAME]


@dataclass
class Distribution:
    """Distribution of a score over all clips that came to `select`."""

    criterion: Criterion
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    passed: Side = field(default_factory=Side)
    failed: Side = field(default_factory=Side)

    @property
    def threshold(self) -> float | None:
        """The criterion's limit, None where it is switched off."""
        limit = self.criterion.at_least
        return limit if limit is not None else self.criterion.at_most

    @property
    def top(self) -> float:
        """The largest value of the histogram's axis."""
        return MOST_REPEATS if self.criterion.score == "repeats" else 1.0

    def add(self, bucket: str, ids: pa.Array, scores: npt.NDArray[np.float64]) -> None:
        """Count a bucket's clips."""
        bins = (scores / self.top * BINS).astype(int).clip(0, BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)
        if self.threshold is None:
            return
        fails = self.criterion.fails(scores)
        distance = np.abs(scores - self.threshold)
        for mask, side in ((~fails, self.passed), (fails, self.failed)):
            rows = np.flatnonzero(mask)
            # Python tuples only of the few that can be among the nearest, not of every clip.
            few = rows[nearest(distance[rows], SHOWN * 4)]
            examples = [(float(distance[i]), ids[i].as_py(), bucket, float(scores[i])) for i in few]
            side.add(examples, distance[rows])

    def merge(self, other: "Distribution") -> None:
        """Add the clips of further buckets."""
        self.counts += other.counts
        self.passed.merge(other.passed)
        self.failed.merge(other.failed)


def nearest(distances: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.int64]:
    """Places of the smallest distances in ascending order; of equal ones the first."""
    limit = np.partition(distances, most - 1)[most - 1] if len(distances) > most else np.nan
    if np.isnan(limit):
        return np.argsort(distances, kind="stable")[:most]
    less = np.flatnonzero(distances < limit)
    equal = np.flatnonzero(distances == limit)[: most - len(less)]
    places = np.concatenate([less, equal])
    return places[np.argsort(distances[places], kind="stable")]


def shown(tables: Tables, found: list[Distribution]) -> dict[str, Clip]:
    """The clips that `section` shows, by id; each bucket is read once."""
    ids: dict[str, list[str]] = {}
    for one in found:
        for _, clip_id, bucket, _ in one.failed.just() + one.passed.just():
            ids.setdefault(bucket, []).append(clip_id)
    clips: dict[str, Clip] = {}
    for bucket, some in ids.items():
        clips |= tables["ingest"].find(Clip, some, bucket)
    return clips


def section(
    clips: Mapping[str, Clip], found: list[Distribution], card: Callable[[Clip, str], str]
) -> Iterator[str]:
    """HTML of all scores.

    Args:
        clips: what `shown` gives.
        found: the distributions.
        card: makes the HTML of a clip with a note below.
    """
    yield (
        "<h2>Scores</h2><p>How each score is distributed over the clips that came to select "
        "(logarithmic), its threshold, and the clips nearest to it on either side, where their "
        "scores differ from others. A criterion is asked of every clip here, whatever else the "
        "clip was rejected for.</p>"
    )
    yield from (_score(clips, one, card) for one in found if one.failed.count)
    if idle := [one for one in found if not one.failed.count]:
        content = "".join(_score(clips, one, card) for one in idle)
        yield svg.folded(f"{len(idle)} scores that reject nothing here", content)


def _score(clips: Mapping[str, Clip], one: Distribution, card: Callable[[Clip, str], str]) -> str:
    """The distribution of a score, and beside it the clips next to its threshold."""
    title = f"{html.escape(one.criterion.score)}: {html.escape(one.criterion.meaning)}"
    beside = []
    for where, side in (("just rejected", one.failed), ("just kept", one.passed)):
        cards = [
            card(clips[clip_id], f"{one.criterion.score} {value:.3f}")
            for _, clip_id, _, value in side.just()
        ]
        if cards:
            beside.append(f"<p>{where}:</p><div class=cards>{''.join(cards)}</div>")
    return (
        f"<div class=score><h3>{title}</h3><div><p>{_sentence(one)}</p>{_histogram(one)}</div>"
        f"<div>{''.join(beside)}</div></div>"
    )


def limit_of(criterion: Criterion) -> str:
    """A criterion's limit in words, such as `at least 0.1`."""
    if criterion.at_least is not None:
        return f"at least {criterion.at_least:g}"
    return "any" if criterion.at_most is None else f"at most {criterion.at_most:g}"


def score(table: Table, bucket: str, clip_id: str, name: str) -> float:
    """A number of one clip; KeyError where the table has no row of it."""
    rows = table.columns(["clip_id", name], [bucket])
    ids = rows["clip_id"].to_pylist()
    if clip_id not in ids:
        raise KeyError(clip_id)
    return float(rows[name][ids.index(clip_id)].as_py())


def _sentence(one: Distribution) -> str:
    total = int(one.counts.sum())
    if one.threshold is None:
        return f"No threshold is set; {total:,} clips."
    return (
        f"Kept with {limit_of(one.criterion)}; {one.failed.count:,} of {total:,} clips do not meet "
        f"it (<i>{html.escape(one.criterion.reason)}</i>)."
    )


def _histogram(one: Distribution) -> str:
    counts = svg.counts(int(one.counts.max(initial=0)))
    axes = svg.Axes(46, 8, WIDTH, HEIGHT, (0.0, one.top), counts, log_y=True)
    step = one.top / BINS
    bars = [
        axes.column((i * step, (i + 0.92) * step), count, svg.COLOURS[0], f"{count:,} clips")
        for i, count in enumerate(one.counts.tolist())
    ]
    parts = [*axes.grid("{:,.0f}".format), *bars, *axes.numbers()]
    if one.threshold is not None:
        parts.append(axes.rule(min(one.threshold, one.top), svg.RED))
    return svg.drawing(axes.x + WIDTH + 20, axes.bottom + 24, parts)
