"""The datasets that handloom reads: for each a module of this folder, loaded when it is wanted.

A user's own dataset is named by where its adapter lies, `module:NAME`, and needs no line here.
"""

from functools import cache
from importlib import import_module
from typing import TypeVar

from handloom.errors import UserError
from handloom.stages.datasets.source import Adapter, RobotAdapter
from handloom.stages.outside import is_outside, load

VIDEO_FORMATS = {
    "ego4d": "ego4d",
    "howto100m": "howto100m.adapter",
    "ssv2": "ssv2",
    "epic_kitchens": "epic_kitchens",
    "kinetics700": "kinetics700",
    "egoexo4d": "egoexo4d",
    "egodex": "egodex",
    "egocentric10k": "egocentric10k",
    "videos": "videos",
}
ROBOT_FORMATS = {
    "rt1": "rt1",
    "bridge": "bridge.adapter",
    "calvin": "calvin.adapter",
    "rlds": "rlds",
    "hdf5": "hdf5.adapter",
    "lerobot": "lerobot.adapter",
}
A = TypeVar("A", Adapter, RobotAdapter)


@cache
def video_adapter(name: str) -> Adapter:
    """The adapter of one of VIDEO_FORMATS, or of `module:NAME`."""
    return _adapter(name, VIDEO_FORMATS, Adapter)


@cache
def robot_adapter(name: str) -> RobotAdapter:
    """The adapter of one of ROBOT_FORMATS, or of `module:NAME`."""
    return _adapter(name, ROBOT_FORMATS, RobotAdapter)


def _adapter(name: str, modules: dict[str, str], kind: type[A]) -> A:
    if is_outside(name):
        adapter = load(name)
    else:
        adapter = import_module(f"handloom.stages.datasets.{modules[name]}").ADAPTER
    if not isinstance(adapter, kind):
        raise UserError(f"{name} is {adapter!r:.60}, expected one of class {kind.__name__}.")
    return adapter
