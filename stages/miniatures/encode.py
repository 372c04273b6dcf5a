"""Renders the videos of a miniature and encodes them the way the original is encoded."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import ffmpeg
import imageio_ffmpeg
import numpy as np

from handloom.errors import RunError
from handloom.files import whole
from handloom.stages.miniatures.people import scene
from handloom.stages.miniatures.people.cast import FPS, Video
from handloom.stages.miniatures.people.raster import Frame

RENDER_FPS = 10  # every rendered frame is shown three times
CODECS: dict[str, dict[str, Any]] = {
    "vp9": {
        "vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 8, "lag-in-frames": 0,
        "crf": 24, "video_bitrate": 0,
    },
    "h264": {"vcodec": "libx264", "preset": "veryfast", "crf": 24},
}  # fmt: skip
SOUND = {"aac": {"acodec": "aac", "ar": 44100}, "opus": {"acodec": "libopus", "ar": 48000}}
EXACT: dict[str, Any] = {"fflags": "+bitexact", "flags": "+bitexact", "map_metadata": -1}


@dataclass(frozen=True)
class Format:
    """How a file is encoded.

    Attributes:
        fps: frames per second that the file says it has.
        render_fps: frames per second that are rendered; each is shown as often as it takes.
        size: width and height in pixels, or None for those of the rendered frames.
        rotated: stored lying on its side, with the turn to the right that players must make.
        timecode: a data track beside the video, as cameras write it.
    """

    codec: Literal["vp9", "h264"]
    container: Literal["mp4", "webm", "matroska"] = "mp4"
    fps: Fraction = Fraction(FPS)
    render_fps: int = RENDER_FPS
    size: tuple[int, int] | None = None
    sound: Literal["", "aac", "opus"] = ""
    rotated: bool = False
    timecode: bool = False


EGO4D = Format("vp9")


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
    """Write a video of Ego4D as MP4, or what its fault leaves of it."""
    if video.fault == "missing":
        return
    # An interrupted download: the index at the end never arrived.
    kept = Fraction(3, 5) if video.fault == "truncated" else Fraction(1)
    write_file(path, frames(video), EGO4D, kept)


def write_file(
    path: Path, images: Iterable[Frame], form: Format, kept: Fraction = Fraction(1)
) -> None:
    """Encode frames, [H, W, 3] uint8, and leave the first `kept` of the file's bytes."""
    with whole(path, sync=False) as temporary:
        _encode(list(images), temporary, form)
        if kept < 1:
            os.truncate(temporary, int(temporary.stat().st_size * kept))


def _encode(images: list[Frame], path: Path, form: Format) -> None:
    """Encode bit-exact, with one thread."""
    if form.rotated:
        images = [np.rot90(image) for image in images]  # to the left
    options = {
        **CODECS[form.codec], **EXACT,
        "g": FPS, "threads": 1, "pix_fmt": "yuv420p", "r": str(form.fps), "fps_mode": "cfr",
        **({"timecode": "00:00:00:00"} if form.timecode else {}),
        **SOUND.get(form.sound, {}),
    }  # fmt: skip
    target = ffmpeg.output(
        *_streams(images, form), str(path), format=form.container, loglevel="error", **options
    )
    try:
        binary = imageio_ffmpeg.get_ffmpeg_exe()
        raw = b"".join(image.tobytes() for image in images)
        target.overwrite_output().run(cmd=binary, input=raw, capture_stderr=True)
    except ffmpeg.Error as error:
        said = error.stderr.decode(errors="replace").strip()
        raise RunError(f"ffmpeg could not write {path}: {said or 'no message'}") from error


def _streams(images: list[Frame], form: Format) -> Iterator[Any]:
    """The frames that are piped in, scaled to the format's size, and a tone of their length."""
    height, width, _ = images[0].shape
    # `noautorotate` leaves the pictures on their side; the angle goes into the file's header.
    turn = {"noautorotate": None, "display_rotation": -90} if form.rotated else {}
    video = ffmpeg.input(
        "pipe:",
        format="rawvideo",
        pix_fmt="rgb24",
        s=f"{width}x{height}",
        r=form.render_fps,
        **turn,
    )
    if form.size is not None:
        flags = "bicubic+accurate_rnd+bitexact"
        video = video.filter("scale", *form.size, flags=flags)
    yield video
    if form.sound:
        seconds = len(images) / form.render_fps
        yield ffmpeg.input("sine=frequency=220:sample_rate=44100", format="lavfi", t=seconds)
