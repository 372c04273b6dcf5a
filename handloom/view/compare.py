"""Two runs of the same videos side by side: what has changed, clip by clip.

Clip ids are hashes of video and span, so that the same clip has the same id in both.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.view.index import KEPT, Bools, Index, Rows, Words

ABSENT = "absent"
SAME, OTHER_REASON, OTHER_TEXT = "same", "other reason", "other caption"
ONLY_NOW, ONLY_BEFORE = "only in this run", "only in the earlier run"


@dataclass(frozen=True)
class Comparison:
    """A run's clips and those that only the earlier run has, [N], with what has changed.

    Attributes:
        index: clips of both runs; those of the earlier run alone have the status `absent`.
        before: the earlier run's clips.
        places: rows of the clips in `before`, -1 for none, int64 [N].
        change: what has changed, in words.
    """

    index: Index
    before: Index
    places: Rows
    change: Words

    def was(self, rows: Rows) -> list[dict[str, str] | None]:
        """How some clips ended in the earlier run; None for those that it has not."""
        places = self.places[rows]
        there = np.maximum(places, 0)
        names = ("status", "reason", "stage")
        columns = {name: _words(self.before, name, there) for name in (*names, "text")}
        found = [
            dict(zip(columns, one, strict=True)) for one in zip(*columns.values(), strict=True)
        ]
        return [one if place >= 0 else None for one, place in zip(found, places, strict=True)]

    def counts(self) -> dict[str, Any]:
        """Clips and hours kept in each run, and the number of each change."""
        runs = {"before": self.before, "now": self.index}
        said: dict[str, Any] = {}
        for name, index in runs.items():
            kept = index.words["status"].equal([KEPT])
            said[name] = {"clips": int(kept.sum()), "seconds": float(index.length_s[kept].sum())}
        every: Bools = np.ones(len(self.index), bool)
        return said | {"changes": self.change.counts(every)}


def _words(index: Index, name: str, rows: Rows) -> list[str]:
    column = index.text if name == "text" else index.words[name]
    return column.take(rows) if len(index) else [""] * len(rows)


def compare(now: Index, before: Index) -> Comparison:
    """What has changed between two runs."""
    only_before = np.flatnonzero(now.places(before.ids) < 0)
    index = extended(now, before, only_before)
    places = before.places(index.ids)
    return Comparison(index, before, places, _changes(index, before, places, len(now)))


def extended(now: Index, before: Index, rows: Rows) -> Index:
    """A run's clips and some of another run's behind them, as `absent` ones."""
    if not len(rows):
        return now
    words = {
        name: _joined(column, before.words.get(name), rows) for name, column in now.words.items()
    }
    codes = words["status"].codes.copy()
    codes[len(now) :] = len(words["status"].values)
    values = pa.concat_arrays([words["status"].values, pa.array([ABSENT])])
    none = np.zeros(len(rows), bool)
    numbers = {}
    for name, column in now.numbers.items():
        other = before.numbers.get(name)
        more = other[rows] if other is not None else np.full(len(rows), np.nan)
        numbers[name] = np.concatenate([column, more.astype(column.dtype)])
    return replace(
        now,
        ids=pa.concat_arrays([now.ids, before.ids.take(pa.array(rows))]),
        words=words | {"status": Words(codes, values)},
        text=_joined(now.text, before.text, rows),
        numbers=numbers,
        came=np.concatenate([now.came, none]),
        passed=np.concatenate([now.passed, none]),
    )


def _joined(column: Words, other: Words | None, rows: Rows) -> Words:
    """A column with some rows of another one behind it."""
    more = other or Words(np.zeros(rows.max(initial=0) + 1, np.int32), pa.array([""]))
    parts = [
        pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), values)
        for codes, values in ((column.codes, column.values), (more.codes[rows], more.values))
    ]
    return Words.encoded(parts)


def _changes(index: Index, before: Index, places: Rows, own: int) -> Words:
    """What has changed for each clip; a status before a reason, a reason before a caption."""
    known, there = places >= 0, np.maximum(places, 0)
    if not len(before):
        return Words(np.zeros(len(index), np.int32), pa.array([ONLY_NOW]))
    words = [SAME, OTHER_TEXT, OTHER_REASON, ONLY_NOW, ONLY_BEFORE]
    codes = np.zeros(len(index), np.int32)
    codes[_differ(index.text, before.text, there)] = 1
    reasons = _differ(index.words["reason"], before.words["reason"], there)
    codes[reasons | _differ(index.words["stage"], before.words["stage"], there)] = 2
    statuses = _differ(index.words["status"], before.words["status"], there)
    moved: npt.NDArray[np.int32] = index.words["status"].codes.astype(np.int32)
    earlier = before.words["status"]
    pair = earlier.codes[there] * np.int32(len(index.words["status"].values)) + moved
    for number in np.unique(pair[statuses & known]).tolist():
        was, now = divmod(number, len(index.words["status"].values))
        words.append(f"{earlier.values[was]} → {index.words['status'].values[now]}")
        codes[statuses & (pair == number)] = len(words) - 1
    codes[~known] = 3
    codes[np.arange(len(index)) >= own] = 4
    return Words(codes, pa.array(words))


def _differ(now: Words, before: Words, there: Rows) -> Bools:
    """Rows whose words differ."""
    return np.asarray(now.translated(before.values)[before.codes[there]] != now.codes)
