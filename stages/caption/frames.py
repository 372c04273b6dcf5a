"""The pictures of a clip that a model is shown."""

import threading
from pathlib import Path

import numpy as np
from PIL import Image

from handloom.stages.caption.requests import FrameHWC
from handloom.stages.media.video import Video

# The last video stays open, since a video's clips come one after another; decoders are not shared
# between threads.
_open = threading.local()


def clip_frames(
    path: Path, start_s: float, end_s: float, count: int, longer_side: int
) -> tuple[FrameHWC, ...]:
    """Frames in the middle of equal slices of a span.

    Args:
        path: of the video.
        start_s: where the span starts, seconds from the start of the video.
        end_s: where it ends.
        count: how many frames.
        longer_side: larger frames are shrunk to this, pixels.

    Returns:
        RGB uint8 [H, W, 3] each, all of one size.

    Raises:
        MediaError: the file cannot be read there.
    """
    times_s = start_s + (np.arange(count) + 0.5) * (end_s - start_s) / count
    return tuple(_shrunk(f, longer_side) for f in _video(path).frames_at(times_s))


def _video(path: Path) -> Video:
    if getattr(_open, "path", None) != path:
        _open.path = None  # should opening fail
        _open.video = Video(path)
        _open.path = path
    video: Video = _open.video
    return video


def _shrunk(frame_hwc: FrameHWC, longer_side: int) -> FrameHWC:
    height, width = frame_hwc.shape[:2]
    scale = longer_side / max(height, width)
    if scale >= 1:
        return frame_hwc
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(frame_hwc).resize(size, Image.Resampling.BICUBIC))
