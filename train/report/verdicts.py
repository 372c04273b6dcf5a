"""Whether a training beats what needs no learning: copying the last frame, the mean action."""

from collections.abc import Iterator
from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """One comparison."""

    sentence: str
    better: bool
    """False where it is as good, too."""


def verdicts(summary: dict[str, Any]) -> Iterator[Verdict]:
    """What the closing numbers of a training (`summary.json`) say; none of an unfinished one."""
    val = summary.get("val", {})
    later = val.get("frames 1 and later", {})
    if {"model", "copy last frame"} <= later.keys():
        model, copy = (later[name]["accuracy"] for name in ("model", "copy last frame"))
        yield _verdict(model, copy, "right codes of later frames", "copying the last frame", 1)
    if {"prior_mean", "mean_action"} <= val.keys():
        error, always = (val[name]["arm_l1"] for name in ("prior_mean", "mean_action"))
        yield _verdict(error, always, "error of the arm", "always the mean action", -1)


def _verdict(mine: float, other: float, what: str, who: str, sign: int) -> Verdict:
    """One comparison; more is better where `sign` is 1."""
    shown = "{:.1%}" if sign > 0 else "{:.3f}"
    numbers = f"{what} {shown.format(mine)} against {shown.format(other)}"
    if shown.format(mine) == shown.format(other):
        return Verdict(f"as good as {who}: {numbers}", False)
    better = (mine - other) * sign > 0
    return Verdict(f"{'better' if better else 'worse'} than {who}: {numbers}", better)
