"""Miniatures that several test files read, each written once, whichever process asks first."""

import fcntl
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from handloom.stages.miniatures import (
    bridge,
    calvin,
    egocentric10k,
    egodex,
    egoexo4d,
    epic_kitchens,
    hdf5,
    howto100m,
    kinetics700,
    lerobot,
    rlds,
    rt1,
    ssv2,
)
from tests.helpers import bridge_layouts

WRITERS: dict[str, Callable[..., None]] = {
    "ssv2": ssv2.write,
    "kinetics700": kinetics700.write,
    "epic_kitchens": epic_kitchens.write,
    "howto100m": howto100m.write,
    "egocentric10k": egocentric10k.write,
    "egodex": egodex.write,
    "egoexo4d": egoexo4d.write,
    "rt1": rt1.write,
    "bridge": bridge.write,
    "bridge_openx": bridge_layouts.write_openx,
    "bridge_raw": bridge_layouts.write_raw,
    "bridge_numpy": bridge_layouts.write_numpy,
    "rlds": rlds.write,
    "calvin": calvin.write,
    "hdf5": hdf5.write,
    "lerobot": lerobot.write,
}
# So few that writing takes seconds.
CLIPS = {
    "ssv2": 13, "kinetics700": 4, "epic_kitchens": 24, "howto100m": 8, "egodex": 20,
    "egocentric10k": 8, "egoexo4d": 9, "rt1": 8, "bridge": 6, "bridge_openx": 2, "bridge_raw": 3,
    "bridge_numpy": 5, "rlds": 5, "calvin": 4, "hdf5": 9, "lerobot": 8,
}  # fmt: skip

# Writing one of these takes five seconds and more.
LONG = frozenset(
    {"epic_kitchens", "howto100m", "egocentric10k", "egodex", "calvin", "hdf5", "lerobot"}
)

Written = Callable[[str], Path]


def marked(names: Iterable[str]) -> list[Any]:
    """Names for `parametrize`, of which some take seconds."""
    return [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in names]


def once(folders: pytest.TempPathFactory, name: str, write: Callable[[Path], object]) -> Path:
    """A folder for the whole session: written by the first test that asks, changed by none."""
    own = folders.getbasetemp()  # of this process, where there are several
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    root.mkdir(exist_ok=True)
    out, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            write(out)
            done.touch()
    return out


def writer(folders: pytest.TempPathFactory) -> Written:
    """Gives the miniature of a name; tests copy what they change."""

    def written(name: str) -> Path:
        return once(folders, name, lambda out: WRITERS[name](out, clips=CLIPS[name]))

    return written
