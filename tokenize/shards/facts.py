"""The facts of metadata that training needs of every sample: `dataset` and `spacing_s`."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from handloom.tokenize.shards.packed import row_of

FACTS = ("dataset", "spacing_s")


def fact_of(name: str, meta: dict[str, Any]) -> Any:
    """One of FACTS of a sample, from its metadata; None where it is not known."""
    if name == "spacing_s":
        return spacing_of(meta)
    dataset = meta.get("dataset")
    return None if dataset is None else sys.intern(str(dataset))


def spacing_of(meta: dict[str, Any]) -> float | None:
    """Seconds from frame to frame of a clip or window, from its metadata; None if unknown."""
    times_s = meta.get("frame_times_s", ())
    if "spacing_s" in meta:
        return float(meta["spacing_s"])
    return (times_s[-1] - times_s[0]) / (len(times_s) - 1) if len(times_s) > 1 else None


def facts_of(columns: dict[str, Any], name: str, count: int) -> Any:
    """One of FACTS of all samples in a block of the layout `packed`, a list or an array [N]."""
    if name == "spacing_s" and "spacing_s" not in columns and "absent" not in columns:
        times = columns.get("frame_times_s")
        if isinstance(times, dict) and len(set(map(len, times["thousandths"]))) == 1:
            return _spacings(np.array(times["thousandths"], np.int64))
    wanted: Sequence[str] = (name,) if name == "dataset" else ("spacing_s", "frame_times_s")
    return [fact_of(name, row_of(columns, row, wanted)) for row in range(count)]


def _spacings(thousandths: Any) -> Any:
    """`spacing_of` of times as thousandths: the first, the first step, changes of the step."""
    if thousandths.shape[1] < 2:
        return [None] * len(thousandths)
    first = thousandths[:, 0]
    last = first + thousandths[:, 1:].cumsum(axis=1).sum(axis=1)
    return (last / 1000 - first / 1000) / (thousandths.shape[1] - 1)
