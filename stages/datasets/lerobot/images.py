"""Pictures of a LeRobot episode: frames of a video, or PNG files in its table."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets.formats.images import EncodedPictures
from handloom.stages.media.video import FramesTHWC, Video

BLOCK_STEPS = 32
BLOCK_BYTES = 1 << 25
"""Of the frames decoded at once. Seeking for each frame would decode up to a whole group of
pictures for it."""


class VideoPictures:
    """Frames of a video at some times, decoded in blocks when asked for; it can be pickled.

    Args:
        path: of the video.
        times_s: float64 [T], ascending; the frame nearest to each is shown. They carry the error
            of sums of floats, so that a frame may begin a little after its own time.
        fps: of the video, at least about.
    """

    def __init__(self, path: Path, times_s: NDArray[np.float64], fps: float) -> None:
        self.path, self.times_s, self.fps = path, times_s, fps
        self._start, self._frames_thwc = 0, np.empty((0, 0, 0, 3), np.uint8)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.times_s)

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        """One frame, RGB uint8 [H, W, 3]. Raises MediaError if the video is damaged or ends."""
        step = range(len(self))[step]
        if not self._start <= step < self._start + len(self._frames_thwc):
            self._start, self._frames_thwc = self._block(step)
        return np.ascontiguousarray(self._frames_thwc[step - self._start])

    def fingerprint(self, step: int) -> bytes:
        """A hash of the frame's size and pixels."""
        frame_hwc = self[step]
        digest = hashlib.blake2b(repr(frame_hwc.shape).encode(), digest_size=16)
        digest.update(frame_hwc.data)
        return digest.digest()

    def _block(self, step: int) -> tuple[int, FramesTHWC]:
        video = _video(self.path, os.getpid())
        frame_bytes = max(1, video.facts.width * video.facts.height * 3)
        size = max(1, min(BLOCK_STEPS, BLOCK_BYTES // frame_bytes))
        start = step // size * size
        # The frame on screen half a frame later is the one that begins nearest to the time.
        half_s = 0.5 / max(self.fps, video.facts.fps)
        return start, video.frames_at(self.times_s[start : start + size] + half_s)


def stored_pictures(rows: pa.Table, name: str, path: str) -> EncodedPictures:
    """The pictures of a column of structs {bytes, path}, or of bytes.

    Raises:
        MediaError: there is no such column, or a picture lies outside the table.
    """
    found = rows[name].to_pylist() if name in rows.column_names else [None]
    files: list[Any] = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in found]
    if not all(isinstance(file, bytes) for file in files):
        raise MediaError(
            f"{path}: the pictures of {name} are not in the table, expected PNG files in it; "
            "write the dataset again with its images embedded"
        )
    return EncodedPictures(files, name)


@lru_cache(maxsize=8)
def _video(path: Path, process: int) -> Video:
    """An open video. A decoder must not be used on both sides of a fork, hence the process."""
    return Video(path)
