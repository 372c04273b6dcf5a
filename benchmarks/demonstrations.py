"""Demonstrations on the tabletop as shards, for the benchmarks that train on them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from handloom.train.tabletop import record


def shards_of(folder: Path, tasks: Sequence[str], train: int, val: int) -> str:
    """Record and curate demonstrations of each of some tasks; what is there already is kept."""
    record.record(folder / "raw", train, tasks, validation_per_task=val)
    data, out = folder / "raw" / record.HOME, folder / "run"
    told = ["--data", str(data), "--out", str(out), "--tokens.model", "bundled-128"]
    command = [sys.executable, "-m", "handloom", "curate", "calvin", *told]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return str(out / "shards")
