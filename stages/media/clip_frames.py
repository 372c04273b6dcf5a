"""What of a clip is shown to models: its longest shot, without letterbox bars."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from handloom.stages.hands.rows import Framing
from handloom.stages.media.video import FramesTHWC, Video
from handloom.stages.tables.rows import Clip


def uniform_times(framing: Framing, count: int) -> npt.NDArray[np.float64]:
    """Times in the middle of equal slices of the clip's shot, float64 [count], seconds."""
    seconds = framing.shot_end_s - framing.shot_start_s
    return framing.shot_start_s + (np.arange(count) + 0.5) * seconds / count


def longest_shot(clip: Clip, framing: Framing) -> Clip:
    """The clip, with the span of its longest shot."""
    return replace(clip, start_s=framing.shot_start_s, end_s=framing.shot_end_s)


def framed(video: Video, framing: Framing, times_s: npt.NDArray[np.float64]) -> FramesTHWC:
    """Frames at times in seconds, without the bars around the picture: uint8 [T, H, W, 3]."""
    frames_thwc = video.frames_at(times_s)
    height, width = frames_thwc.shape[1:3]
    x0, y0, x1, y1 = framing.picture_xyxy
    columns = slice(round(x0 * width), max(round(x1 * width), round(x0 * width) + 1))
    rows = slice(round(y0 * height), max(round(y1 * height), round(y0 * height) + 1))
    return frames_thwc[:, rows, columns]
