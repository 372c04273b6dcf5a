"""The report's section on thresholds: how many clips and hours each would keep at other values.

Decisions are made again from the stored scores with one option of `select` changed, all others as
they are: what a run with that option would keep.
"""

import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.stages.select import CLIP_COLUMNS, Criterion, Select, repeats
from handloom.stages.tables.columns import Floats, bucket_groups, matched
from handloom.stages.tables.parts import Tables, listed

Value = float | bool | None

SHARES = 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9
GROUP_BYTES = 64 << 20  # of the select table: about 700,000 clips
COUNTS = 1, 2, 5, 10, 20, 50, 100


@dataclass
class Kept:
    """What is kept at one value of an option."""

    value: Value
    clips: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Threshold:
    """An option of `select` that rejects clips, and what it would keep."""

    option: str
    present: Value
    steps: list[Kept]


def thresholds(tables: Tables, select: Select) -> list[Threshold]:
    """Every threshold of `select` at some values and at its present one, in ascending order."""
    found = [
        Threshold(f.name, getattr(select, f.name), [Kept(value) for value in values])
        for f in fields(select)
        if (values := _values(select, f.name))
    ]
    names = sorted({criterion.score for criterion in select.criteria()})
    stored = listed(tables)
    for buckets in bucket_groups(stored["select"], GROUP_BYTES):
        rows = stored["select"].columns(["clip_id", *names], buckets)
        clips = matched(rows, stored["ingest"].columns(CLIP_COLUMNS, buckets))
        scores = {name: rows[name].to_numpy() for name in names}
        decisions = _Decisions(select, scores, clips)
        for threshold in found:
            for step in threshold.steps:
                count, seconds = decisions.kept(_with(select, threshold.option, step.value))
                step.clips += count
                step.seconds += seconds
    return found


def section(found: list[Threshold]) -> Iterator[str]:
    """HTML of the thresholds."""
    yield (
        "<h2>Thresholds</h2><p>The clips and hours that select would keep if one option were "
        "different, and all others as they are; the present value is marked. Shares of frames with "
        "a hand above 0.25 are estimates where the search ended early.</p>"
    )
    for one in found:
        flag = f"<b>--select.{one.option.replace('_', '-')}</b>"
        counts = {kept.clips for kept in one.steps}
        if len(counts) == 1:
            now = f"now <mark>{_words(one.present)}</mark>"
            yield f"<p>{flag}, {now}: {counts.pop():,} clips at every value.</p>"
        else:
            steps = "".join(_step(kept, kept.value == one.present) for kept in one.steps)
            yield f"<p>{flag}</p><div class=steps>{steps}</div>"


def _step(kept: Kept, is_present: bool) -> str:
    name = f"<mark>{_words(kept.value)}</mark>" if is_present else _words(kept.value)
    return f"<div>{name}<br>{kept.clips:,} clips<br>{kept.seconds / 3600:.3g} h</div>"


def _words(value: Value) -> str:
    if value is None:
        return "off"
    return str(value) if isinstance(value, bool) else f"{value:g}"


def _values(select: Select, option: str) -> list[Value]:
    """Values to try for an option, ascending after None; empty where it sets no threshold."""
    present, hint = getattr(select, option), typing.get_type_hints(type(select))[option]
    if hint is bool:
        values: list[Value] = [False, True]
    elif type(None) in typing.get_args(hint):
        steps = COUNTS if int in typing.get_args(hint) else SHARES
        values = [None, *sorted({*steps, *([] if present is None else [present])})]
    else:
        return []
    sets_a_limit = any(
        _with(select, option, value).criteria() != select.criteria() for value in values
    )
    return values if sets_a_limit else []


def _with(select: Select, option: str, value: Value) -> Select:
    changed: dict[str, Any] = {option: value}
    return replace(select, **changed)


class _Decisions:
    """What `select` decides on some clips, again and again with one option changed.

    Most criteria stay as they are: the number that each clip fails is counted once, and only the
    clips that pass all others are looked at again.

    Args:
        select: with the present options.
        scores: by name, each float64 [clips].
        clips: CLIP_COLUMNS of the clips.
    """

    def __init__(self, select: Select, scores: dict[str, Floats], clips: pa.Table) -> None:
        self.scores, self.clips = scores, clips
        self.length_s = clips["end_s"].to_numpy() - clips["start_s"].to_numpy()
        self.present = [one for one in select.criteria() if one.score != "repeats"]
        self.masks = {one: one.fails(scores[one.score]) for one in self.present}
        self.failed = np.sum([*self.masks.values()], axis=0, dtype=np.int8)
        self.passing: dict[tuple[Criterion, ...], dict[str, Any]] = {}
        self.counted: dict[bytes, Floats] = {}

    def kept(self, select: Select) -> tuple[int, float]:
        """Number and seconds of the clips that pass all criteria."""
        pairs = zip(self.present, select.criteria(), strict=False)
        changed = {old: new for old, new in pairs if old != new}
        some = self._passing(changed)
        kept = np.ones(len(some["rows"]), bool)
        for new in changed.values():
            kept &= ~new.fails(some[new.score])
        (repeat,) = (one for one in select.criteria() if one.score == "repeats")
        if repeat.at_most is not None:
            kept &= ~repeat.fails(self._repeats(some["rows"][kept])[some["rows"]])
        return int(kept.sum()), float(some["length_s"][kept].sum())

    def _passing(self, changed: dict[Criterion, Criterion]) -> dict[str, Any]:
        """The clips that pass the criteria that stay: rows, lengths, and the changed scores."""
        key = tuple(changed)
        if key not in self.passing:
            failed = self.failed - np.sum([self.masks[one] for one in key], axis=0, dtype=np.int8)
            rows = np.flatnonzero(failed == 0)
            scores = {one.score: self.scores[one.score][rows] for one in key}
            known = {"rows": rows, "length_s": self.length_s[rows]} | scores
            self.passing = {key: known}  # an option's values come one after the other
        return self.passing[key]

    def _repeats(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Repeats among clips that are kept otherwise; those last asked for are remembered."""
        key = rows.tobytes()
        if key not in self.counted:
            kept = np.zeros(self.clips.num_rows, bool)
            kept[rows] = True
            self.counted = {key: repeats(self.clips, kept)}
        return self.counted[key]
