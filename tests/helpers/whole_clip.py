"""Inputs of a stage that reads frames, for a clip without shot changes and bars."""

from handloom.stages.media import clip_frames
from handloom.stages.media.clip_frames import Framing
from handloom.stages.tables.rows import Clip


def whole(clip: Clip) -> tuple[Clip, Framing]:
    """The clip, and a framing that leaves nothing out."""
    return clip, clip_frames.whole(clip)
