"""The report's section on thresholds: how many clips and hours each would keep at other values.

Decisions are made again from the stored scores with one option of `select` changed, all others as
they are: what a run with that option would keep.
"""

import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom import svg
from handloom.stages.select import Criterion, Select, repeats
from handloom.stages.tables.columns import Floats

Value = float | bool | None

SHARES = 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9
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


class Thresholds:
    """Every threshold of `select` at some values and at its present one, in ascending order.

    Args:
        select: with the present options.

    Attributes:
        found: the thresholds, with what the clips added so far make of them.
    """

    def __init__(self, select: Select) -> None:
        self.select = select
        self.found = [
            Threshold(f.name, getattr(select, f.name), [Kept(value) for value in values])
            for f in fields(select)
            if (values := _values(select, f.name))
        ]
        self._selects = [
            [_with(select, one.option, step.value) for step in one.steps] for one in self.found
        ]
        self._moves = [_moves(select, selects) for selects in self._selects]

    def add(self, scores: dict[str, Floats], clips: pa.Table) -> None:
        """Count clips.

        Args:
            scores: by name, each float64 [clips].
            clips: CLIP_COLUMNS of the same clips, in the same order; of whole videos.
        """
        decisions = _Decisions(self.select, scores, clips)
        every = zip(self.found, self._selects, self._moves, strict=True)
        for one, selects, moves in every:
            if self.select.max_repeats is None and one.option != "max_repeats":
                counts, seconds = decisions.kept_at(moves)
            else:  # which clips are repeats depends on which are kept otherwise
                each = [decisions.kept(changed) for changed in selects]
                counts, seconds = (np.array(column) for column in zip(*each, strict=True))
            for step, count, length_s in zip(one.steps, counts, seconds, strict=True):
                step.clips += int(count)
                step.seconds += float(length_s)

    def add_kept(self, clips: pa.Table) -> None:
        """Count clips that are kept at every value, since somebody has marked them so."""
        length_s = clips["end_s"].to_numpy() - clips["start_s"].to_numpy()
        for step in (step for one in self.found for step in one.steps):
            step.clips += clips.num_rows
            step.seconds += float(length_s.sum())

    def merge(self, other: "Thresholds") -> None:
        """Add further clips, counted with the same options."""
        for mine, its in zip(self.found, other.found, strict=True):
            for step, more in zip(mine.steps, its.steps, strict=True):
                step.clips += more.clips
                step.seconds += more.seconds


def section(found: list[Threshold]) -> Iterator[str]:
    """HTML of the thresholds."""
    yield (
        "<h2>Thresholds</h2><p>The clips and hours that select would keep if one option were "
        "different, and all others as they are; the present value is marked. Shares of frames with "
        "a hand above 0.25 are estimates where the search ended early.</p>"
    )
    idle = []
    for one in found:
        flag = f"<b>--select.{one.option.replace('_', '-')}</b>"
        counts = {kept.clips for kept in one.steps}
        if len(counts) == 1:
            now = f"now <mark>{_words(one.present)}</mark>"
            idle.append(f"<p>{flag}, {now}: {counts.pop():,} clips at every value.</p>")
        else:
            steps = "".join(_step(kept, kept.value == one.present) for kept in one.steps)
            yield f"<p>{flag}</p><div class=steps>{steps}</div>"
    if idle:
        yield svg.folded(f"{len(idle)} options that change nothing here", "".join(idle))


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
    elif type(None) in typing.get_args(hint) and {int, float} & set(typing.get_args(hint)):
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


@dataclass(frozen=True)
class _Move:
    """A criterion whose limit an option moves.

    Attributes:
        present: the criterion with the present limit.
        limits: the limit at each value of the option, float64 [values]; infinite for none.
        is_least: whether scores have to be at least the limit, or at most.
    """

    present: Criterion
    limits: Floats
    is_least: bool


def _moves(select: Select, selects: list[Select]) -> list[_Move]:
    """What an option moves from one of its values to the next; of `max_repeats` nothing."""
    steps, moves = [changed.criteria() for changed in selects], list[_Move]()
    for present, *moved in zip(select.criteria(), *steps, strict=True):
        if present.score == "repeats" or all(one == present for one in moved):
            continue
        is_least = any(one.at_least is not None for one in moved)
        none = -math.inf if is_least else math.inf
        limits = [one.at_least if is_least else one.at_most for one in moved]
        numbers = np.array([none if limit is None else limit for limit in limits])
        moves.append(_Move(present, numbers, is_least))
    return moves


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

    def kept_at(self, moves: list[_Move]) -> tuple[npt.NDArray[np.int64], Floats]:
        """Number and seconds of the clips that pass at each value of an option; [values] each.

        The values' limits ascend in one order, so that a clip passes from one value to another:
        two sums tell it of all values.
        """
        some = self._passing({move.present: move.present for move in moves})
        order = np.argsort(moves[0].limits, kind="stable")
        first = np.zeros(len(some["rows"]), np.int64)
        stop = np.full(len(first), len(order))
        for move in moves:
            limits, scores = move.limits[order], some[move.present.score]
            assert (np.diff(limits[np.isfinite(limits)]) > 0).all()
            if move.is_least:  # no limit rejects what is no number: it sorts behind all
                stop = np.minimum(stop, np.searchsorted(limits, scores, "right"))
            else:
                place = np.searchsorted(limits, scores, "left")
                first = np.maximum(first, np.where(np.isnan(scores), 0, place))
        passes = first < stop
        first, stop, length_s = first[passes], stop[passes], some["length_s"][passes]
        counts, seconds = np.zeros(len(order), np.int64), np.zeros(len(order))
        bins = len(order) + 1
        counts[order] = np.cumsum(
            np.bincount(first, minlength=bins) - np.bincount(stop, minlength=bins)
        )[:-1]
        starts, stops = (np.bincount(at, length_s, minlength=bins) for at in (first, stop))
        seconds[order] = np.cumsum(starts - stops)[:-1]
        return counts, seconds

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
