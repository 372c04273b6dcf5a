"""A user's own mask or blur, which every picture passes before it is encoded, captioned or shown.

    def blurred(clip: Clip, frames_thwc: NDArray[np.uint8]) -> NDArray[np.uint8]: ...

    handloom curate ego4d ... --ingest.frame-transform my_module:blurred

The function is named, not handed over, so that workers, later runs and training find it again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from handloom.errors import UserError
from handloom.files import file_digest
from handloom.stages.media.display import FrameHWC
from handloom.stages.media.video import FramesTHWC
from handloom.stages.outside import load, module_file
from handloom.stages.stage import Stage
from handloom.stages.tables.rows import Clip, EpisodeFootage, EpisodePlace, Footage

FrameTransform = Callable[[Clip, FramesTHWC], FramesTHWC]
"""Takes a clip or episode and some of its frames, uint8 [T, H, W, 3] RGB, and gives frames of the
same size. What it makes of a frame must not depend on the others of the call: the same frame is
asked for alone and in other company."""


@dataclass(frozen=True)
class FrameOptions:
    """The options of an ingest stage that decide what its clips look like to everyone."""

    frame_transform: str = ""
    """Function that blurs or masks every picture before it is encoded, captioned or shown, as
    `module:function`; see docs/architecture.md. Without one, pictures stay as they are."""


def transform_name(stage: Stage) -> str:
    """The option `frame_transform` of the run that a stage belongs to."""
    source = stage.source or stage
    return source.frame_transform if isinstance(source, FrameOptions) else ""


@cache
def load_transform(name: str) -> FrameTransform | None:
    """The function that `module:function` names; None for an empty name.

    Raises:
        UserError: there is no such function.
    """
    transform: FrameTransform | None = load(name) if name else None
    return transform


def transform_facts(stage: Stage) -> dict[str, str]:
    """What a stage's rows depend on if it shows pictures to a model: the function and its source.

    Nothing where there is none, so that a run without one has the fingerprints it always had.
    """
    name = transform_name(stage)
    if not load_transform(name):
        return {}
    return {"frame_transform": f"{name} {file_digest(module_file(name))[:16]}"}


def clip_shown(stage: Stage) -> type[Footage]:
    """Type of clip row of a stage that shows pictures: with a function of the user's all of it."""
    narrow = stage.clip_type
    if not transform_name(stage):
        return narrow
    return EpisodePlace if issubclass(narrow, EpisodeFootage) else Clip


def transformed(transform: FrameTransform | None, clip: Footage, frame_hwc: FrameHWC) -> FrameHWC:
    """A frame after the mask or blur.

    Raises:
        UserError: what came back is no frame of the same size.
    """
    if transform is None:
        return frame_hwc
    assert isinstance(clip, Clip)  # `clip_shown` sees to it
    frames_thwc = transform(clip, frame_hwc[None])
    if frames_thwc.dtype != np.uint8 or frames_thwc.shape != (1, *frame_hwc.shape):
        raise UserError(
            f"--ingest.frame-transform turned uint8 {[1, *frame_hwc.shape]} into "
            f"{frames_thwc.dtype} {list(frames_thwc.shape)}; it has to keep size and type."
        )
    changed_hwc: FrameHWC = frames_thwc[0]
    return changed_hwc
