"""Which clips a page shows: a query, as it stands in the page's address, turned into rows.

    status=rejected&reason=blurred&min.sharpness=0.3&text=cup&sort=-sharpness&sample=200&seed=1

A name may come several times: any of its values counts. Different names must all hold.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from handloom.errors import UserError
from handloom.stages.report.sample import ranks
from handloom.view.index import Bools, Index, Numbers, Rows, Words

FACETS = ("status", "stage", "reason", "dataset", "split", "source", "verb", "object", "licence")
MARK, MOVED, CHANGE, VIDEO = "mark", "moved", "change", "video"
"""Columns that come of marks, of thresholds, of a comparison; and the source video."""
CHOICES = (*FACETS, MARK, MOVED, CHANGE, VIDEO)


AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class Query:
    """What is asked for.

    Attributes:
        choices: words by column, any of which counts.
        ranges: lowest and highest value by score, inclusive.
        text: words that must all be in a caption.
        sort: name of a score, `text` or `length_s`; empty for the order of the videos.
        descending: the largest first.
        sample: so many at random; None for all.
        seed: of the sample.
        options: values of `select`'s options that differ from the run's, as they were given.
    """

    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    text: str = ""
    sort: str = ""
    descending: bool = False
    sample: int | None = None
    seed: int = 0
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, pairs: Iterable[tuple[str, str]]) -> Self:
        """From the names and values of an address.

        Raises:
            UserError: a name that is not known, or a value that is no number where one is needed.
        """
        query = cls()
        for name, value in pairs:
            query = query._with(name, value)
        return query

    def _with(self, name: str, value: str) -> Self:
        first, _, rest = name.partition(".")
        if name in CHOICES:
            values = (*self.choices.get(name, ()), value)
            return replace(self, choices={**self.choices, name: values})
        if first in ("min", "max") and rest:
            low, high = self.ranges.get(rest, (-np.inf, np.inf))
            limit = _number(name, value)
            pair = (limit, high) if first == "min" else (low, limit)
            return replace(self, ranges={**self.ranges, rest: pair})
        if first == "select" and rest:
            return replace(self, options=(*self.options, (rest, value)))
        if name == "text":
            return replace(self, text=value)
        if name == "sort":
            return replace(self, sort=value.removeprefix("-"), descending=value.startswith("-"))
        if name == "sample":
            return replace(self, sample=_whole(name, value))
        if name == "seed":
            return replace(self, seed=_whole(name, value))
        raise UserError(f"{name!r} is no filter; expected one of {', '.join(CHOICES)}, text, sort, "
                        "sample, seed, or min.SCORE and max.SCORE.")  # fmt: skip


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = np.nan
    if np.isnan(number):
        raise UserError(f"{name} is {value[:40]!r}, expected a number.")
    return number


def _whole(name: str, value: str) -> int:
    if not value.isdecimal() or len(value) > 9:
        raise UserError(f"{name} is {value[:40]!r}, expected a whole number of at most 9 digits.")
    return int(value)


@dataclass(frozen=True)
class Columns:
    """The index, and the columns of words that are not of it."""

    index: Index
    more: Mapping[str, Words] = field(default_factory=dict)
    """Columns such as `mark`, by name; a filter on one that is missing finds nothing."""

    def words(self, name: str) -> Words:
        """A column of words; one of nothing but empty words where there is none."""
        if name in ("verb", "object"):
            return self.index.actions[("verb", "object").index(name)]
        known = self.index.words.get("video_id" if name == VIDEO else name, self.more.get(name))
        return known or Words(np.zeros(len(self.index), np.int32), pa.array([""]))

    def number(self, name: str) -> Numbers:
        """A score of all clips. Raises UserError for one that the run does not hold."""
        if name == "length_s":
            return self.index.length_s
        if name not in self.index.numbers:
            known = ", ".join(["length_s", *self.index.numbers])
            raise UserError(f"{name[:40]!r} is no score of this run; it holds {known}.")
        return self.index.numbers[name]


def masks(columns: Columns, query: Query) -> dict[str, Bools]:
    """Clips that meet each of the query's conditions, by the name of its column."""
    found = {name: columns.words(name).equal(some) for name, some in query.choices.items()}
    for name, (low, high) in query.ranges.items():
        values = columns.number(name)
        found[f"range.{name}"] = (values >= low) & (values <= high)  # NaN is in no range
    if query.text.strip():
        found["text"] = _containing(columns.index.text, query.text)
    return found


def _containing(text: Words, wanted: str) -> Bools:
    """Rows whose text holds all words, whatever their case."""
    found = np.ones(len(text.values), bool)
    for word in wanted.split():
        held = pc.match_substring(text.values, word, ignore_case=True)
        found &= held.to_numpy(zero_copy_only=False)
    return np.asarray(found[text.codes])


def together(found: Iterable[Bools], count: int) -> Bools:
    """Clips in all masks."""
    mask = np.ones(count, bool)
    for one in found:
        mask &= one
    return mask


def order(columns: Columns, query: Query, mask: Bools) -> npt.NDArray[np.int64]:
    """Rows that a query shows, in their order."""
    rows = np.flatnonzero(mask)
    if query.sample is not None and len(rows):
        drawn = _ranks(columns.index, rows, query.seed)
        rows = rows[np.argsort(drawn, kind="stable")[: query.sample]]
        rows = rows if not query.sort else np.sort(rows)
    if not query.sort:
        return rows
    if query.sort == "text":
        return _by_text(columns.index.text, rows, query.descending)
    values = columns.number(query.sort)[rows]
    keys = -values if query.descending else values
    return np.asarray(rows[np.argsort(keys, kind="stable")])  # NaN sorts last either way


def _ranks(index: Index, rows: Rows, seed: int) -> npt.NDArray[np.uint64]:
    """Random ranks of some clips, some at a time: each takes 80 bytes on the way."""
    pieces = [rows[start : start + AT_A_TIME] for start in range(0, len(rows), AT_A_TIME)]
    return np.concatenate([ranks(index.ids.take(pa.array(piece)), seed) for piece in pieces])


def _by_text(text: Words, rows: npt.NDArray[np.int64], descending: bool) -> npt.NDArray[np.int64]:
    rank = pc.rank(text.values, sort_keys="ascending", tiebreaker="dense").to_numpy()
    keys = rank.astype(np.int64)[text.codes[rows]]
    return np.asarray(rows[np.argsort(-keys if descending else keys, kind="stable")])


def facets(
    columns: Columns, found: Mapping[str, Bools], names: Sequence[str], most: int
) -> dict[str, list[tuple[str, int]]]:
    """Words of some columns with their counts, frequent ones first.

    A column's own condition does not count for it, so that its other words can be chosen too.
    """
    count, counted = len(columns.index), {}
    every = together(found.values(), count)
    for name in names:
        others = [mask for other, mask in found.items() if other != name]
        rows = together(others, count) if name in found else every
        counted[name] = columns.words(name).counts(rows)[:most]
    return counted


def histogram(
    values: npt.NDArray[Any], mask: Bools, low: float, high: float, bins: int
) -> list[int]:
    """Number of the values in equal steps from low to high; what lies beyond counts at the end."""
    some = values[mask]
    some = some[~np.isnan(some)]
    place = ((some - low) / max(high - low, 1e-12) * bins).astype(np.int64)
    counts: list[int] = np.bincount(place.clip(0, bins - 1), minlength=bins).tolist()
    return counts
