"""From a decoded frame to the picture that a player shows: RGB, upright, with square pixels."""

import gc
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter
from PIL import Image

FrameHWC = npt.NDArray[np.uint8]

LARGE = 1 << 24  # pixels: copies of such a picture, 50 MB and more, do not wait to be collected


class Converter:
    """Makes pictures of decoded frames; keeps swscale's tables, which take longer than a frame."""

    def __init__(self) -> None:
        self._colour = VideoReformatter()

    def __call__(self, frame: Any, pixel_aspect: float) -> FrameHWC:
        """RGB uint8 [H, W, 3] of a decoded frame.

        Args:
            frame: an `av.VideoFrame`.
            pixel_aspect: width of a stored pixel over its height.
        """
        converted = self._colour.reformat(frame, format="rgb24", threads=1)
        picture_hwc = np.asarray(converted.to_ndarray(), np.uint8)
        if frame.width * frame.height > LARGE:
            del converted
            gc.collect()  # PyAV's frame and its planes hold each other
        if abs(pixel_aspect - 1) >= 0.01:
            size = max(1, round(frame.width * pixel_aspect)), frame.height
            picture_hwc = np.asarray(Image.fromarray(picture_hwc).resize(size))
        return oriented(picture_hwc, display_matrix(frame))


class Shrinker:
    """Scales frames to a short side and turns them as they are shown; keeps swscale's tables."""

    def __init__(self, short_side: int) -> None:
        self._short_side = short_side
        self._scale, self._colour = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: Any, pixel_aspect: float) -> FrameHWC:
        """RGB uint8 [H, W, 3] of a decoded frame."""
        width, height = self._size(frame.width * pixel_aspect, frame.height)
        if frame.format.name == "yuv420p":
            # Half the time of scaling and converting at once, which widens the chroma first.
            frame = self._scale.reformat(frame, width, height, interpolation="AREA", threads=1)
        small = self._colour.reformat(
            frame, width, height, "rgb24", interpolation="AREA", threads=1
        )
        return oriented(np.asarray(small.to_ndarray(), np.uint8), display_matrix(frame))

    def _size(self, width: float, height: float) -> tuple[int, int]:
        scale = min(1.0, self._short_side / min(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))


def pixel_aspect(stream: Any) -> float:
    """Width of a stored pixel over its height."""
    return float(stream.sample_aspect_ratio or 1) or 1.0


def display_matrix(frame: Any) -> tuple[int, ...] | None:
    """The nine numbers of a frame's display matrix, row by row; None for a frame without one."""
    for data in frame.side_data:
        if data.type == Type.DISPLAYMATRIX:
            return tuple(np.frombuffer(bytes(data), np.int32).tolist())
    return None


def degrees_clockwise(matrix: tuple[int, ...] | None) -> int:
    """By how much a display matrix turns the picture, 0 to 359; a mirror counts as FFmpeg does."""
    if matrix is None:
        return 0
    widths = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    if not all(widths):
        return 0
    return round(math.degrees(math.atan2(matrix[1] / widths[1], matrix[0] / widths[0]))) % 360


def is_mirrored(matrix: tuple[int, ...] | None) -> bool:
    """Whether a display matrix mirrors the picture, beside turning it."""
    return matrix is not None and matrix[0] * matrix[4] - matrix[1] * matrix[3] < 0


def oriented(picture_hwc: FrameHWC, matrix: tuple[int, ...] | None) -> FrameHWC:
    """A picture turned and mirrored by a display matrix, as `ffmpeg -autorotate` does it.

    The cases are those of FFmpeg's `insert_rotate` (fftools/ffmpeg_filter.c); a turn that is not by
    quarters is left out, where FFmpeg turns the picture inside its frame.
    """
    if matrix is None:
        return picture_hwc
    quarter = round(degrees_clockwise(matrix) / 90) % 4
    turned = picture_hwc
    if quarter == 1:
        turned = turned.swapaxes(0, 1) if matrix[3] > 0 else np.rot90(turned, k=-1)
    elif quarter == 3:
        is_flipped = matrix[3] < 0
        turned = turned[::-1, ::-1].swapaxes(0, 1) if is_flipped else np.rot90(turned)
    else:
        turned = turned[:, ::-1] if quarter == 2 and matrix[0] < 0 else turned
        turned = turned[::-1] if matrix[4] < 0 else turned
    return np.ascontiguousarray(turned)
