"""Results of the runs of `handloom claim`: successes with their intervals, and differences."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom.claim.config import ClaimConfig
from handloom.claim.plan import NAMES, SCRIPTS, Cell, cells

# A kind of stage 1, the one that it should beat, and what that would show. Only the first and the
# last are about hands: robot video alone may be why both beat nothing.
COMPARED = (
    ("hands", "nothing", "hands help"),
    ("both", "nothing", "videos help, of hands or of the robot"),
    ("both", "robot", "hands help beside robot video"),
)
Z95 = 1.959964  # of the normal distribution


@dataclass(frozen=True)
class Count:
    """Successes among attempts."""

    done: int
    tried: int

    @property
    def rate(self) -> float:
        """Share of the attempts, 0 to 1."""
        return self.done / self.tried if self.tried else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the rate.

        It is of these trained policies: how much trainings differ is not part of it.
        """
        if not self.tried:
            return math.nan, math.nan
        n, p, z2 = self.tried, self.rate, Z95 * Z95
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        # Rounding must not put an end beyond what was counted.
        return min(middle - half, p) if self.done else 0.0, max(middle + half, p)


def difference(one: Count, other: Count) -> tuple[float, float, float]:
    """By how much the first rate is larger, with Newcombe's 95 % interval (method 10)."""
    (low1, high1), (low2, high2) = one.interval, other.interval
    apart = one.rate - other.rate
    low = apart - math.hypot(one.rate - low1, high2 - other.rate)
    high = apart + math.hypot(high1 - one.rate, other.rate - low2)
    return apart, low, high


@dataclass(frozen=True)
class CellResult:
    """Success of the fine-tunings of one kind on so many demonstrations, all seeds together."""

    kind: str
    mode: str
    demonstrations: int
    success: Count
    by_seed: tuple[float, ...]
    """Success of each seed, 0 to 1."""
    touched_another: int
    """Attempts in which another block was touched first."""
    arm_l1: float
    """Mean over seeds of the arm's error on held-out windows, standard deviations."""


def collect(config: ClaimConfig) -> list[CellResult]:
    """Read the results of the fine-tunings that are done."""
    groups: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells(config):
        if (config.out / cell.name / "rollout" / "rollout.json").is_file():
            groups.setdefault(cell[:3], []).append(cell)
    return [_result(config.out, group) for group in groups.values()]


def _result(out: Path, group: Sequence[Cell]) -> CellResult:
    rollouts = [read(out / cell.name / "rollout" / "rollout.json") for cell in group]
    counts = [count_of(rollout) for rollout in rollouts]
    errors = [
        read(out / cell.name / "summary.json")["val"]["prior_mean"]["arm_l1"] for cell in group
    ]
    return CellResult(
        *group[0][:3],
        success=Count(sum(c.done for c in counts), sum(c.tried for c in counts)),
        by_seed=tuple(c.rate for c in counts),
        touched_another=sum(rollout["touched_another"] for rollout in rollouts),
        arm_l1=sum(errors) / len(errors),
    )


def scripts(config: ClaimConfig) -> dict[str, Count]:
    """Successes of the scripts."""
    files = {name: config.out / "scripts" / name / "rollout.json" for name in SCRIPTS}
    return {name: count_of(read(file)) for name, file in files.items() if file.is_file()}


def count_of(rollout: dict[str, Any]) -> Count:
    """Successes of a rollout.json of single tasks."""
    return Count(sum(rollout["lengths"]), len(rollout["lengths"]))


def read(file: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    values: dict[str, Any] = json.loads(file.read_text())
    return values


def verdict(results: Sequence[CellResult], mode: str) -> list[str]:
    """A sentence for each comparison and number of demonstrations: are videos worth something?"""
    by = {(one.kind, one.demonstrations): one for one in results if one.mode == mode}
    lines = []
    for count in sorted({one.demonstrations for one in results}):
        for kind, other, statement in COMPARED:
            if not by.keys() >= {(kind, count), (other, count)}:
                continue
            apart, low, high = difference(by[kind, count].success, by[other, count].success)
            outcome = "shown" if low > 0 else "the reverse is shown" if high < 0 else "not shown"
            if min(len(by[one, count].by_seed) for one in (kind, other)) == 1:
                outcome += ", by one training"  # the interval knows nothing of other trainings
            lines.append(
                f"{count} demonstrations a task, {mode} GPT, stage 1 on {NAMES[kind]} against "
                f"{NAMES[other]}: {apart:+.0%} success ({low:+.0%} to {high:+.0%}). That "
                f"{statement}: {outcome}."
            )
    return lines
