"""The miniatures that `handloom sample` can write, loaded when they are wanted."""

from collections.abc import Callable
from importlib import import_module

MODULES = {
    "ego4d": "ego4d",
    "howto100m": "howto100m",
    "ssv2": "ssv2",
    "epic_kitchens": "epic_kitchens",
    "kinetics700": "kinetics",
    "rt1": "rt1",
    "bridge": "bridge",
    "calvin": "calvin",
    "rlds": "rlds",
    "hdf5": "hdf5",
    "lerobot": "lerobot",
}


def miniature(dataset: str) -> Callable[..., None]:
    """`write(out, clips=…, seed=…)` of a dataset's miniature."""
    module = import_module(f"handloom.stages.miniatures.{MODULES[dataset]}")
    write: Callable[..., None] = module.write
    return write
