"""Features of a frozen GPT, computed once by all processes and stored.

    FOLDER/<split>-<fingerprint>/00000.npy      float16 [windows, M, X], in the order of the windows
                                00001.npy       the next ones, …: about a gigabyte each

A part is written under a temporary name and renamed when it is whole, so that what was computed
before a kill stays. The fingerprint covers the GPT, the episodes, how windows are cut and which of
them are stored: features of another run are never taken for these.

Features are those of windows, not of single pictures: what the GPT makes of a picture depends on
the pictures before it, so each step has features of its own as the first picture, the second, ….

Shape legend: B windows, M features of X numbers (finetune/model.py).
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handloom.errors import RunError
from handloom.files import whole
from handloom.train.trainer.distributed import World
from handloom.train.trainer.numbers import duration

AT_A_TIME = 32
PART_BYTES = 1 << 30
Features = NDArray[np.float16]
Integers = NDArray[np.int64]
Compute = Callable[[Integers], Tensor]


def folder_of(folder: Path, split: str, identity: Any) -> Path:
    """Folder of the features of a split; its name holds a hash of what they depend on."""
    text = json.dumps(identity, sort_keys=True)
    return folder / f"{split}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def within(limit_gb: float | None, windows: int, shape_MX: tuple[int, int]) -> int:
    """Number of windows whose features fit into so many gigabytes; None is no limit."""
    if limit_gb is None:
        return windows
    return min(windows, int(limit_gb * 1e9 / (2 * shape_MX[0] * shape_MX[1])))


class Stored:
    """Stored features of some of the windows of a split.

    Args:
        folder: of the parts.
        numbers: of the windows, int64, rising.
        shape_MX: of the features of one.
    """

    def __init__(self, folder: Path, numbers: Integers, shape_MX: tuple[int, int]) -> None:
        self.folder, self.numbers, self.shape_MX = folder, numbers, shape_MX
        self.row_bytes = 2 * shape_MX[0] * shape_MX[1]
        each = PART_BYTES // self.row_bytes // AT_A_TIME * AT_A_TIME
        self.each = max(AT_A_TIME, each)
        """Windows of a part, but for the last one."""

    @cached_property
    def parts(self) -> list[Path]:
        """The files, in order."""
        return [self.folder / f"{i:05}.npy" for i in range(-(-len(self.numbers) // self.each))]

    @cached_property
    def _open(self) -> list[Features]:
        return [np.load(path, mmap_mode="r") for path in self.parts]

    def read(self, numbers: Integers) -> tuple[Features, list[int]]:
        """Features of windows, [B, M, X], and the places of those that are not stored: zeros."""
        found = np.zeros((len(numbers), *self.shape_MX), np.float16)
        rows = np.searchsorted(self.numbers, numbers)
        missing = []
        for place, (number, row) in enumerate(zip(numbers.tolist(), rows.tolist(), strict=True)):
            if row < len(self.numbers) and self.numbers[row] == number:
                part, here = divmod(row, self.each)
                found[place] = self._open[part][here]
            else:
                missing.append(place)
        return found, missing

    def write(self, world: World, compute: Compute) -> None:
        """Compute and write the parts that are not there; the processes share them.

        Args:
            world: of the run; all its processes must call this.
            compute: float [n, M, X] of windows by their numbers. All processes call it equally
                often, as a model in parts wants it.

        Raises:
            RunError: the disk is too small.
        """
        lacking = [i for i, path in enumerate(self.parts) if not path.is_file()]
        world.barrier()  # nobody writes before all have looked
        if not lacking:
            if world.is_first:
                print(f"features of {len(self.numbers):,} windows are in {self.folder}")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._refuse_full_disk(len(lacking))
        began = time.monotonic()
        shares = [lacking[i] for i in world.share(len(lacking))]
        for done, part in enumerate(shares, 1):
            self._write_part(part, compute)
            if world.is_first:
                left_s = (time.monotonic() - began) / done * (len(shares) - done)
                here = f"features: {done:,} of {len(shares):,} parts of each process"
                print(f"{here}   {duration(left_s)} left", flush=True)
        world.barrier()
        if world.is_first:
            size_gb = self.row_bytes * len(self.numbers) / 1e9
            print(
                f"wrote {self.folder}: features of {len(self.numbers):,} windows, {size_gb:.2f} GB"
            )

    def _write_part(self, part: int, compute: Compute) -> None:
        numbers = self.numbers[part * self.each : (part + 1) * self.each]
        rows = np.empty((len(numbers), *self.shape_MX), np.float16)
        # The last part may be shorter; processes that share a model still call equally often.
        for start in range(0, min(self.each, len(self.numbers)), AT_A_TIME):
            start = min(start, (len(numbers) - 1) // AT_A_TIME * AT_A_TIME)
            here = slice(start, start + AT_A_TIME)
            rows[here] = compute(numbers[here]).half().cpu().numpy()
        with whole(self.parts[part]) as partial, partial.open("wb") as file:
            np.save(file, rows)

    def _refuse_full_disk(self, parts: int) -> None:
        needed = min(len(self.numbers), parts * self.each) * self.row_bytes
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise RunError(
                f"the features of {len(self.numbers):,} windows need {needed / 1e9:,.1f} GB in "
                f"{self.folder.parent}, and {free / 1e9:,.1f} GB are free: name another disk with "
                f"--features, store a part of them with --features-gb {free / 2e9:.1f}, raise "
                "--head.pool, take fewer --episodes-per-task, or use --mode frozen, which stores "
                "none."
            )
