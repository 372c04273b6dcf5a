"""Videos of the miniatures, rendered and encoded like those of the original datasets."""

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
from handloom.stages.miniatures.people.cast import FPS, NarratedVideo
from handloom.stages.miniatures.people.raster import Frame

RENDER_FPS = 10  # of Ego4D's videos: each rendered frame is shown three times
CODECS: dict[str, dict[str, Any]] = {
    "vp9": {
        "vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 8, "lag-in-frames": 0,
        "crf": 24, "video_bitrate": 0,
    },
    "h264": {"vcodec": "libx264", "preset": "veryfast", "crf": 24},
    "h265": {
        "vcodec": "libx265", "preset": "veryfast", "crf": 26, "tag:v": "hvc1",
        "x265-params": "pools=none:frame-threads=1:log-level=error",
    },
}  # fmt: skip
SOUND = {"aac": {"acodec": "aac", "ar": 44100}, "opus": {"acodec": "libopus", "ar": 48000}}
EXACT: dict[str, Any] = {"fflags": "+bitexact", "flags": "+bitexact", "map_metadata": -1}


@dataclass(frozen=True)
class VideoEncoding:
    """Encoding of a video file.

    Attributes:
        fps: frames per second of the file.
        render_fps: rendered frames per second; each is repeated to reach `fps`.
        size: width and height in pixels, or None for those of the rendered frames.
        rotated: stored on its side, with metadata that tell players to turn it to the right.
        timecode: whether a data track lies beside the video, as cameras write it.
    """

    codec: Literal["vp9", "h264", "h265"]
    container: Literal["mp4", "webm", "matroska"] = "mp4"
    fps: Fraction = Fraction(FPS)
    render_fps: int = RENDER_FPS
    size: tuple[int, int] | None = None
    sound: Literal["", "aac", "opus"] = ""
    rotated: bool = False
    timecode: bool = False


EGO4D = VideoEncoding("vp9")


def render(video: NarratedVideo) -> Iterator[Frame]:
    """All frames of a video of Ego4D, uint8 [H, W, 3], at RENDER_FPS."""
    if video.landscape:
        rendered = scene.render_landscape(video.appearance, video.seconds, RENDER_FPS)
    else:
        rendered = scene.render(
            video.appearance, video.things, video.actions, video.seconds, RENDER_FPS
        )
    for index, frame in enumerate(rendered):
        at_s = index / RENDER_FPS
        if any(first <= at_s < last for first, last in video.redacted + video.black):
            frame = np.zeros_like(frame)
        yield np.hstack((frame, frame)) if video.fault == "stereo" else frame


def write_video(path: Path, video: NarratedVideo) -> None:
    """Write a video of Ego4D as MP4, as far as its fault leaves it."""
    if video.fault == "missing":
        return
    # An interrupted download: the index at the end never arrived.
    fraction = Fraction(3, 5) if video.fault == "truncated" else Fraction(1)
    write_file(path, render(video), EGO4D, fraction)


def write_file(
    path: Path, images: Iterable[Frame], encoding: VideoEncoding, fraction: Fraction = Fraction(1)
) -> None:
    """Encode frames, uint8 [H, W, 3], and keep the first `fraction` of the file's bytes."""
    with whole(path, sync=False) as temporary:
        _encode(list(images), temporary, encoding)
        if fraction < 1:
            os.truncate(temporary, int(temporary.stat().st_size * fraction))


def _encode(images: list[Frame], path: Path, encoding: VideoEncoding) -> None:
    """Encode frames to a file, bit-exact, with one thread."""
    if encoding.rotated:
        images = [np.rot90(image) for image in images]  # to the left
    options = {
        **CODECS[encoding.codec], **EXACT,
        "g": FPS, "threads": 1, "pix_fmt": "yuv420p", "r": str(encoding.fps), "fps_mode": "cfr",
        **({"timecode": "00:00:00:00"} if encoding.timecode else {}),
        **SOUND.get(encoding.sound, {}),
    }  # fmt: skip
    target = ffmpeg.output(
        *_streams(images, encoding),
        str(path),
        format=encoding.container,
        loglevel="error",
        **options,
    )
    try:
        binary = imageio_ffmpeg.get_ffmpeg_exe()
        raw = b"".join(image.tobytes() for image in images)
        target.overwrite_output().run(cmd=binary, input=raw, capture_stderr=True)
    except ffmpeg.Error as error:
        said = error.stderr.decode(errors="replace").strip()
        raise RunError(f"ffmpeg could not write {path}: {said or 'no message'}") from error


def _streams(images: list[Frame], encoding: VideoEncoding) -> Iterator[Any]:
    """Streams of ffmpeg: the piped frames, scaled to their size, and a tone of their length."""
    height, width, _ = images[0].shape
    # `noautorotate` leaves the frames on their side; the angle goes into the file's header.
    turn = {"noautorotate": None, "display_rotation": -90} if encoding.rotated else {}
    video = ffmpeg.input(
        "pipe:",
        format="rawvideo",
        pix_fmt="rgb24",
        s=f"{width}x{height}",
        r=encoding.render_fps,
        **turn,
    )
    if encoding.size is not None:
        flags = "bicubic+accurate_rnd+bitexact"
        video = video.filter("scale", *encoding.size, flags=flags)
    yield video
    if encoding.sound:
        seconds = len(images) / encoding.render_fps
        yield ffmpeg.input("sine=frequency=220:sample_rate=44100", format="lavfi", t=seconds)
