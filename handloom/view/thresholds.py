"""What `select` would keep with other options: its own code, on the scores that are stored.

Options that decide which frames count (`dark_below`, `min_confidence`) need the `hands` table: its
scores are made again, by `select` too, which takes seconds for a million clips.
"""

import ast
import inspect
import shlex
import textwrap
import typing
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.errors import UserError
from handloom.flags import yaml_flags
from handloom.pipeline.configuration import refuse_numbers
from handloom.pipeline.job import Job
from handloom.pipeline.recipes import recipe
from handloom.stages.outside import is_outside
from handloom.stages.select import CLIP_COLUMNS, Criterion, Select, repeats
from handloom.stages.tables.columns import matched
from handloom.view.index import Bools, Index, Words
from handloom.view.run import Run

KEPT_NOW, REJECTED_NOW = "newly kept", "newly rejected"
FRAME_OPTIONS = ("min_confidence", "dark_below", "blank_below", "flat_from")
MOST_REPEATS = 100
Scores = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Trial:
    """What other options, and marks, make of a run's clips.

    Attributes:
        select: with these options.
        verdict: place of each clip's reason in `select.reasons()`, int8 [N].
        passes: clips that `select` lets through, bool [N].
    """

    select: Select
    verdict: npt.NDArray[np.int8]
    passes: Bools

    def moved(self, index: Index) -> Words:
        """What has changed for each clip: nothing, newly kept, newly rejected."""
        codes = np.zeros(len(index), np.int32)
        codes[self.passes & ~index.passed] = 1
        codes[~self.passes & index.passed] = 2
        return Words(codes, pa.array(["", KEPT_NOW, REJECTED_NOW]))

    def counts(self, index: Index) -> dict[str, Any]:
        """Clips and seconds before and now, what has moved, and the number of each reason."""
        moved = self.moved(index)
        masks = {
            "before": index.passed,
            "now": self.passes,
            KEPT_NOW: moved.equal([KEPT_NOW]),
            REJECTED_NOW: moved.equal([REJECTED_NOW]),
        }
        said: dict[str, Any] = {"decided": int(index.came.sum())}
        for name, mask in masks.items():
            said[name] = {"clips": int(mask.sum()), "seconds": float(index.length_s[mask].sum())}
        numbers = np.bincount(self.verdict[index.came], minlength=len(self.select.reasons()))
        named = zip(self.select.reasons(), numbers.tolist(), strict=True)
        return said | {"reasons": {reason: number for reason, number in named if reason and number}}


class Trials:
    """Tries options on a run; the last trial, and the last scores made again, are remembered."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._rescored: OrderedDict[tuple[Any, ...], Scores] = OrderedDict()

    def judge(self, select: Select, marked: pa.Array | None) -> Trial:
        """The verdicts of `select` on all clips.

        Args:
            select: the run's stage with other options.
            marked: mark of each clip, empty without one; None without marks.
        """
        index, scores = self.run.index, self._scores(select)
        counts = partial(self._repeats, index)
        unrepeated = lambda _: index.numbers["repeats"]  # noqa: E731
        judged = counts if select.max_repeats is not None else unrepeated
        verdict, _ = select.judge(scores, marked, judged)
        return Trial(select, verdict, index.came & ~select.rejects(verdict))

    def _scores(self, select: Select) -> Scores:
        """The stored scores, or those that other options on frames give."""
        key = _frame_options(select)
        if self.run.select is None or key == _frame_options(self.run.select):
            return self.run.index.numbers
        known = (self.run.generation, *key)
        if known not in self._rescored:
            self._rescored[known] = rescored(self.run.index, replace(select, overrides=None))
            while len(self._rescored) > 1:
                self._rescored.popitem(last=False)
        return self._rescored[known]

    def _repeats(self, index: Index, counts: Bools) -> npt.NDArray[np.float64]:
        """Repeats among clips; the datasets' own texts are read when they are first needed."""
        buckets = sorted(set(index.words["bucket"].values.to_pylist()))
        clips = index.tables["ingest"].columns(CLIP_COLUMNS, buckets)
        clips = matched(pa.table({"clip_id": index.ids}), clips)
        return repeats(clips, counts)


def _frame_options(select: Select) -> tuple[Any, ...]:
    return tuple(getattr(select, name) for name in FRAME_OPTIONS)


def rescored(index: Index, select: Select) -> Scores:
    """Scores of all clips, made again from the `hands` table; NaN where there is no decision."""
    found = {one.score: np.full(len(index), np.nan) for one in select.criteria()}
    for buckets in select.pieces(index.tables):
        for _, rows in select.piece(index.tables, buckets):
            places = index.places(rows["clip_id"].combine_chunks())
            for name, values in found.items():
                values[places] = rows[name].to_numpy()
    return found


def with_options(select: Select, options: Sequence[tuple[str, str]]) -> Select:
    """The stage with some options as an address gives them: `none` switches a criterion off.

    Raises:
        UserError: an option that is not known, or a value that it does not take.
    """
    kinds = typing.get_type_hints(Select)
    changed: dict[str, Any] = {}
    for name, text in options:
        if name not in movable():
            raise UserError(
                f"select has no threshold {name[:40]!r}; it has {', '.join(movable())}."
            )
        changed[name] = _value(name, kinds[name], text)
    moved = replace(select, **changed)
    refuse_numbers("select", moved)
    return moved


def _value(name: str, kind: Any, text: str) -> float | int | bool | None:
    plain = typing.get_args(kind) or (kind,)
    if text == "none" and type(None) in plain:
        return None
    if bool in plain:
        if text in ("true", "false"):
            return text == "true"
    else:
        try:
            return int(text) if int in plain else float(text)
        except ValueError:
            pass
    raise UserError(f"--select.{name.replace('_', '-')} is {text[:40]!r}, expected a number.")


@cache
def movable() -> dict[str, str]:
    """Names of the options that set limits, each with its documentation."""
    source = textwrap.dedent(inspect.getsource(Select))
    (described,) = ast.parse(source).body
    assert isinstance(described, ast.ClassDef)
    found: dict[str, str] = {}
    for node, after in zip(described.body, described.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
            text = ast.literal_eval(after.value)
            found[ast.unparse(node.target)] = " ".join(text.split())
    known = {f.name for f in fields(Select)} - {"overrides"}
    return {name: text for name, text in found.items() if name in known}


def sliders(select: Select) -> list[dict[str, Any]]:
    """Each option with its present value, its range, and the score that it limits."""
    kinds = typing.get_type_hints(Select)
    return [
        {
            "name": name, "says": text, "value": getattr(select, name),
            "flag": f"--select.{name.replace('_', '-')}",
            "kind": "switch" if kinds[name] is bool else "frames" if name in FRAME_OPTIONS
            else "count" if name == "max_repeats" else "limit",
            "most": MOST_REPEATS if name == "max_repeats" else 1.0,
            "scores": [one.score for one in _moved_by(select, name)],
            "reasons": [one.reason for one in _moved_by(select, name)],
            "is_least": name.startswith("min_"),
        }
        for name, text in movable().items()
    ]  # fmt: skip


def _moved_by(select: Select, name: str) -> list[Criterion]:
    """The criteria whose limits an option sets."""
    present = getattr(select, name)
    other = (not present) if isinstance(present, bool) else 0.123 if present != 0.123 else 0.124
    if name == "max_repeats":
        other = 1 if present != 1 else 2
    changed: dict[str, Any] = {name: other}
    pairs = zip(select.criteria(), replace(select, **changed).criteria(), strict=True)
    return [old for old, new in pairs if old != new]


def flags(select: Select, present: Select) -> list[str]:
    """The options that differ, as words of a command line."""
    return yaml_flags(Path(), {"select": _differences(asdict(select), asdict(present))}, [])


def command(job: Job, select: Select) -> str:
    """The `curate` that gives this selection, with all that the run's options say beside."""
    config: dict[str, Any] = {f.name: getattr(job.config, f.name) for f in fields(job.config)}
    source = config["ingest"].format
    dataset = source if is_outside(source) else job.dataset
    base = recipe(dataset)
    options = {
        name: _differences(asdict(part), asdict(getattr(base, name)))
        for name, part in (config | {"select": select}).items()
    }
    words = ["handloom", "curate", dataset, "--data", str(job.data), "--out", str(job.out)]
    return shlex.join([*words, *yaml_flags(Path(), options, [])])


def _differences(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Options whose values differ, nested as they are; paths as text."""
    found: dict[str, Any] = {}
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := _differences(value, old):
                found[name] = inner
        elif value != old:
            found[name] = [*map(str, value)] if isinstance(value, list | tuple) else value
    return found
