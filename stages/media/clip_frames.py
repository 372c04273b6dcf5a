"""The one door to a clip's pictures: codes, captions, the report and training see the same ones.

    pictures = pictures_of(stage)              # or RecordedRun(out).pictures, for a run on disk
    frames = pictures.frames(clip, framing, uniform_times(framing, 5))

Frames are RGB uint8 [H, W, 3], upright, with square pixels, without the black bars around the
picture, after a mask or blur of the user's (`frame_transform.py`). A `Framing` says where the bars
are, and which seconds are worth showing: the clip's longest shot.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handloom.stages.hands.rows import Framing as Framing  # for train, to which hands is closed
from handloom.stages.media.display import FrameHWC
from handloom.stages.media.frame_transform import (
    FrameTransform,
    load_transform,
    transform_name,
    transformed,
)
from handloom.stages.media.video import frames_once, open_video
from handloom.stages.stage import Stage
from handloom.stages.tables.rows import Footage

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClipFrames:
    """Gives the frames of a dataset's clips.

    Attributes:
        data: the data folder; a clip's `media_path` is below it.
        transform: the mask or blur that frames pass, None for none.
        scattered: whether clips are asked for in no order of videos, a few frames of each.
    """

    data: Path
    transform: FrameTransform | None = None
    scattered: bool = False

    def frames(self, clip: Footage, framing: Framing, times_s: Times) -> Iterator[FrameHWC]:
        """The frame on screen at each time, ascending, in seconds from the start of the video.

        Raises:
            MediaError: the file cannot be opened, is damaged there or ends earlier.
        """
        path = self.data / clip.media_path
        if self.scattered:
            shown = frames_once(path, times_s, threads=0)
        else:
            shown = open_video(path).each_frame(times_s)

        def finished(frame_hwc: FrameHWC) -> FrameHWC:
            return transformed(self.transform, clip, without_bars(frame_hwc, framing))

        yield from map(finished, shown)  # no name holds a frame, of up to 200 MB, meanwhile


def pictures_of(stage: Stage) -> ClipFrames:
    """The clips' pictures of the run that a stage belongs to."""
    return ClipFrames(stage.data, load_transform(transform_name(stage)))


def whole(clip: Footage) -> Framing:
    """All of a clip and of its picture."""
    everything = [0.0, 0.0, 1.0, 1.0]
    return Framing(
        clip_id=clip.clip_id,
        shot_start_s=clip.start_s,
        shot_end_s=clip.end_s,
        picture_xyxy=everything,
    )


def uniform_times(framing: Framing, count: int) -> Times:
    """Times in the middle of equal slices of the clip's longest shot, float64 [count], seconds."""
    seconds = framing.shot_end_s - framing.shot_start_s
    return framing.shot_start_s + (np.arange(count) + 0.5) * seconds / count


def spaced_times(framing: Framing, spacing_s: float) -> Times:
    """Times `spacing_s` apart in the clip's longest shot, at least one, as far from both ends."""
    seconds = framing.shot_end_s - framing.shot_start_s
    count = max(1, int(seconds / spacing_s + 1e-6))
    margin_s = (seconds - (count - 1) * spacing_s) / 2
    return framing.shot_start_s + margin_s + np.arange(count, dtype=np.float64) * spacing_s


def without_bars(frame_hwc: FrameHWC, framing: Framing) -> FrameHWC:
    """The picture inside a frame's bars, at least one pixel of it."""
    height, width = frame_hwc.shape[:2]
    x0, y0, x1, y1 = framing.picture_xyxy
    columns = slice(round(x0 * width), max(round(x1 * width), round(x0 * width) + 1))
    rows = slice(round(y0 * height), max(round(y1 * height), round(y0 * height) + 1))
    return frame_hwc[rows, columns]
