"""The formats that handloom reads: for each a module of this folder, loaded when it is wanted."""

from functools import cache
from importlib import import_module

from handloom.stages.datasets.source import Adapter, RobotAdapter

VIDEO_FORMATS = ("ego4d", "howto100m", "ssv2", "epic_kitchens", "kinetics700")
ROBOT_FORMATS = ("rt1", "bridge", "calvin", "rlds", "hdf5", "lerobot")


@cache
def video_adapter(name: str) -> Adapter:
    """The adapter of one of VIDEO_FORMATS."""
    adapter: Adapter = import_module(f"handloom.stages.datasets.{name}").ADAPTER
    return adapter


@cache
def robot_adapter(name: str) -> RobotAdapter:
    """The adapter of one of ROBOT_FORMATS."""
    adapter: RobotAdapter = import_module(f"handloom.stages.datasets.{name}").ADAPTER
    return adapter
