"""Features of a frozen GPT, computed once for every window and stored.

    FOLDER/<split>-<fingerprint>.npy    float16 [windows, M, X], in the order of the windows

A file is written under a temporary name and renamed when it is whole. Its fingerprint covers the
GPT, the episodes and how windows are cut, so features of another run are never taken for these.

Shape legend: B windows, M features of X numbers (finetune/model.py).
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handloom.errors import RunError
from handloom.files import whole
from handloom.train.trainer.numbers import duration

AT_A_TIME = 32
Features = NDArray[np.float16]


def path_of(folder: Path, split: str, identity: Any) -> Path:
    """File of the features of a split; its name holds a hash of the conditions they depend on."""
    text = json.dumps(identity, sort_keys=True)
    return folder / f"{split}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"


def store(
    path: Path, windows: int, shape_MX: tuple[int, int], compute: Callable[[range], Tensor]
) -> None:
    """Compute and write the features of all windows, unless they are there.

    Args:
        path: to write.
        windows: how many.
        shape_MX: of the features of one.
        compute: float [n, M, X] of windows by their numbers.

    Raises:
        RunError: the disk is too small.
    """
    if path.is_file():
        print(f"features of {windows:,} windows are in {path}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _refuse_full_disk(path, windows, shape_MX)
    with whole(path) as partial:
        # open_memmap writes the header of a .npy, so that the whole file is one any reader knows
        out = np.lib.format.open_memmap(
            partial, mode="w+", dtype=np.float16, shape=(windows, *shape_MX)
        )
        _fill(out, compute)
        out.flush()
        del out
    print(f"wrote {path}: features of {windows:,} windows, {path.stat().st_size / 1e9:.2f} GB")


def _fill(out: Features, compute: Callable[[range], Tensor]) -> None:
    windows = len(out)
    began = reported = time.monotonic()
    for start in range(0, windows, AT_A_TIME):
        part = range(start, min(start + AT_A_TIME, windows))
        out[part.start : part.stop] = compute(part).half().cpu().numpy()
        if (now := time.monotonic()) - reported > 10:
            left_s = (now - began) / part.stop * (windows - part.stop)
            print(f"features {part.stop:,} / {windows:,}   {duration(left_s)} left", flush=True)
            reported = now


def _refuse_full_disk(path: Path, windows: int, shape_MX: tuple[int, int]) -> None:
    needed = 2 * windows * shape_MX[0] * shape_MX[1]
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise RunError(
            f"the features of {windows:,} windows need {needed / 1e9:,.1f} GB in {path.parent}, "
            f"and {free / 1e9:,.1f} GB are free: name another disk with --features, raise "
            "--head.pool, take fewer --episodes-per-task, or use --mode frozen, which stores none."
        )
