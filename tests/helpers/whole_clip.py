"""What a stage that looks at frames is given for a clip without shot changes and bars."""

from handloom.stages.hands.rows import Framing
from handloom.stages.tables.rows import Clip


def whole(clip: Clip) -> tuple[Clip, Framing]:
    """The clip, and that all of it is worth showing."""
    framing = Framing(
        clip_id=clip.clip_id,
        shot_start_s=clip.start_s,
        shot_end_s=clip.end_s,
        picture_xyxy=[0.0, 0.0, 1.0, 1.0],
    )
    return clip, framing
