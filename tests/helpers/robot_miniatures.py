"""The miniatures of robot datasets, by the names that their tests give them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from handloom.stages.miniatures import bridge, calvin, hdf5, lerobot, rlds, rt1
from tests.helpers import bridge_layouts

WRITERS: dict[str, Callable[..., None]] = {
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


def writer(clips: dict[str, int], folders: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a miniature of so many clips when it is first asked for."""

    @cache
    def write(name: str) -> Path:
        out = folders.mktemp(name)
        WRITERS[name](out, clips=clips[name])
        return out

    return write
