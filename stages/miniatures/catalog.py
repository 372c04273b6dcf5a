"""The miniatures that `handloom sample` can write: modules of this folder, loaded when wanted."""

from collections.abc import Callable
from importlib import import_module

from handloom.stages.datasets.catalog import ROBOT_FORMATS, VIDEO_FORMATS

MINIATURES = (*VIDEO_FORMATS, *ROBOT_FORMATS)


def miniature(dataset: str) -> Callable[..., None]:
    """`write(out, clips=…, seed=…)` of a dataset's miniature."""
    write: Callable[..., None] = import_module(f"handloom.stages.miniatures.{dataset}").write
    return write
