"""The formats that handloom reads: for each a module of this folder, loaded when it is wanted."""

from functools import cache
from importlib import import_module
from typing import Any

from handloom.stages.datasets.source import Adapter, RobotAdapter

VIDEO_FORMATS = ("ego4d", "howto100m", "ssv2", "epic_kitchens", "kinetics700")
ROBOT_FORMATS = ("rt1", "bridge", "calvin", "rlds", "hdf5", "lerobot")
_FOLDERS = {"howto100m", "bridge", "calvin", "hdf5", "lerobot"}


@cache
def video_adapter(name: str) -> Adapter:
    """The adapter of one of VIDEO_FORMATS."""
    adapter: Adapter = _module(name).ADAPTER
    return adapter


@cache
def robot_adapter(name: str) -> RobotAdapter:
    """The adapter of one of ROBOT_FORMATS."""
    adapter: RobotAdapter = _module(name).ADAPTER
    return adapter


def _module(name: str) -> Any:
    """The module with ADAPTER: a file of this folder, or adapter.py in a folder of its own."""
    inside = f"{name}.adapter" if name in _FOLDERS else name
    return import_module(f"handloom.stages.datasets.{inside}")
