"""The miniatures that `handloom sample` can write."""

from collections.abc import Callable

from handloom.stages.miniatures import ego4d

MINIATURES: dict[str, Callable[..., None]] = {"ego4d": ego4d.write}
