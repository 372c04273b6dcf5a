"""Images of a LeRobot episode: frames of a video, or PNG files in its table."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets.formats.images import EncodedImages, hash_arrays
from handloom.stages.media.video import FramesTHWC, Video, probe

BLOCK_STEPS = 32
BLOCK_BYTES = 1 << 25
"""Size of the frames decoded at once: a seek for each frame would decode up to a GOP for it."""


class VideoFrames:
    """Frames of a video at some times, decoded in blocks when accessed; can be pickled.

    Args:
        path: of the video.
        times_s: float64 [T], ascending; the frame on screen at each is taken.
    """

    def __init__(self, path: Path, times_s: NDArray[np.float64]) -> None:
        self.path, self.times_s = path, times_s
        self._start, self._frames_thwc = 0, np.empty((0, 0, 0, 3), np.uint8)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.times_s)

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        """One frame, RGB uint8 [H, W, 3]. Raises MediaError if the video is damaged or ends."""
        step = range(len(self))[step]
        if not self._start <= step < self._start + len(self._frames_thwc):
            self._start, self._frames_thwc = self._block(step)
        return np.ascontiguousarray(self._frames_thwc[step - self._start])

    def fingerprint(self, step: int) -> bytes:
        """A hash of the frame's size and pixels, 16 bytes."""
        return hash_arrays(self[step])

    def _block(self, step: int) -> tuple[int, FramesTHWC]:
        size = max(1, min(BLOCK_STEPS, BLOCK_BYTES // _frame_bytes(self.path)))
        start = step // size * size
        video = _video(self.path, os.getpid())
        return start, video.frames_at(self.times_s[start : start + size])


def stored_images(rows: pa.Table, name: str, path: str) -> EncodedImages:
    """The images of a column of structs {bytes, path}, or of bytes.

    Raises:
        MediaError: the column is missing, or an image lies outside the table.
    """
    cells = rows[name].to_pylist() if name in rows.column_names else [None]
    files: list[Any] = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]
    if not all(isinstance(file, bytes) for file in files):
        raise MediaError(
            f"{path}: the pictures of {name} are not in the table, expected PNG files in it; "
            "write the dataset again with its images embedded"
        )
    return EncodedImages(files, name)


@lru_cache(maxsize=8)
def _video(path: Path, process: int) -> Video:
    """An open video, one for each process: a decoder must not be used on both sides of a fork."""
    return Video(path)


@lru_cache(maxsize=8)
def _frame_bytes(path: Path) -> int:
    facts = probe(path)
    return max(1, facts.width * facts.height * 3)
