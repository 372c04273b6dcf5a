"""The miniatures that `handloom sample` can write: modules of this folder, loaded when wanted."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from handloom.stages.datasets.catalog import ROBOT_FORMATS, VIDEO_FORMATS

# A dataset need not have one.
MINIATURES = tuple(
    name
    for name in (*VIDEO_FORMATS, *ROBOT_FORMATS)
    if (Path(__file__).parent / f"{name}.py").is_file()
)


def miniature(dataset: str) -> Callable[..., None]:
    """`write(out, clips=…, seed=…)` of a dataset's miniature."""
    write: Callable[..., None] = import_module(f"handloom.stages.miniatures.{dataset}").write
    return write
