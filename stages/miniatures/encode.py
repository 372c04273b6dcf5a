"""Renders the videos of a miniature and encodes them the way the original is encoded."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np

from handloom.errors import RunError
from handloom.stages.miniatures import scene
from handloom.stages.miniatures.cast import FPS, Video
from handloom.stages.miniatures.paint import HEIGHT, Frame

RENDER_FPS = 10  # every rendered frame is shown three times


def frames(video: Video) -> Iterator[Frame]:
    """All frames of a video, [H, W, 3] uint8, at RENDER_FPS."""
    if video.landscape:
        drawn = scene.landscape(video.look, video.seconds, RENDER_FPS)
    else:
        drawn = scene.frames(video.look, video.things, video.actions, video.seconds, RENDER_FPS)
    for index, frame in enumerate(drawn):
        at_s = index / RENDER_FPS
        if any(first <= at_s < last for first, last in video.redacted + video.black):
            frame = np.zeros_like(frame)
        yield np.hstack((frame, frame)) if video.fault == "stereo" else frame


def write_video(path: Path, video: Video) -> None:
    """Write a video as MP4, or what its fault leaves of it."""
    if video.fault == "missing":
        return
    raw = path.with_suffix(".partial")
    _encode(frames(video), raw, video.width)
    if video.fault == "truncated":  # an interrupted download: the index at the end never arrived
        os.truncate(raw, raw.stat().st_size * 3 // 5)
    raw.rename(path)


def _encode(images: Iterable[Frame], path: Path, width: int) -> None:
    """Encode as Ego4D does, VP9 in MP4 at a constant 30 fps; bit-exact, one thread."""
    codec: dict[str, Any] = {
        "vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 8, "lag-in-frames": 0,
        "crf": 24, "video_bitrate": 0, "g": FPS, "threads": 1, "pix_fmt": "yuv420p",
    }  # fmt: skip
    exact = {"fflags": "+bitexact", "flags:v": "+bitexact", "map_metadata": -1}
    source = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{HEIGHT}", r=RENDER_FPS
    )
    target = source.output(str(path), format="mp4", r=FPS, loglevel="error", **codec, **exact)
    raw = b"".join(frame.tobytes() for frame in images)
    try:
        binary = imageio_ffmpeg.get_ffmpeg_exe()
        target.overwrite_output().run(cmd=binary, input=raw, capture_stderr=True)
    except ffmpeg.Error as error:
        said = error.stderr.decode(errors="replace").strip()
        raise RunError(f"ffmpeg could not write {path}: {said or 'no message'}") from error
