"""Reading video files: what a file is, and its frames at given times.

Times are seconds from the first frame of the file's best video stream. Frames come out upright
(rotation metadata applied) with square pixels, RGB uint8.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from handloom.errors import MediaError

# A frame may be asked for slightly after the last one: durations are rounded, frame rates vary.
TAIL_S = 0.5

FrameHWC = npt.NDArray[np.uint8]
FramesTHWC = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MediaFacts:
    """What probing finds in a file; width and height are of the stored picture, before rotation."""

    duration_s: float
    fps: float
    width: int
    height: int
    codec: str
    rotation: int
    pixel_aspect: float


def probe(path: Path) -> MediaFacts:
    """Open a file, decode its first frame and measure its video stream.

    Raises:
        MediaError: the file cannot be opened, holds no video, or its first frame does not decode.
    """
    with opened(path) as (container, stream):
        try:
            frame = next(container.decode(stream), None)
        except av.FFmpegError as error:
            reason = why(error)
            raise MediaError(f"{path.name}: the first frame does not decode ({reason})") from None
        if frame is None:
            raise MediaError(f"{path.name}: the video stream holds no frames")
        return MediaFacts(
            duration_s=_duration_s(path, container, stream),
            fps=float(stream.average_rate or stream.guessed_rate or 0),
            width=frame.width,
            height=frame.height,
            codec=stream.codec_context.codec.canonical_name,
            rotation=int(frame.rotation) % 360,
            pixel_aspect=_pixel_aspect(stream),
        )


class Video:
    """An open file that gives frames by time; neighbouring requests share one decoder.

    decord reads what it can; files it cannot open (AV1, GIF, a broken tail) go to PyAV.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts = probe(path)
        self._decord = _DecordReader.open(path, self.facts)

    def frames_at(self, times_s: npt.NDArray[np.float64]) -> FramesTHWC:
        """The frame on screen at each time.

        Args:
            times_s: float64 [T], ascending.

        Returns:
            uint8 [T, H, W, 3] RGB.

        Raises:
            MediaError: the file is damaged there or ends earlier.
        """
        frames = self._decord.frames_at(times_s) if self._decord else None
        if frames is None:
            self._decord = None
            return np.stack(list(frames_once(self.path, times_s)))
        if _is_square(self.facts.pixel_aspect):
            return frames
        aspect, rotation = self.facts.pixel_aspect, self.facts.rotation
        return np.stack([_square_pixels(frame, aspect, rotation) for frame in frames])


class _DecordReader:
    def __init__(self, reader: Any, starts_s: npt.NDArray[np.float64], ends_s: float) -> None:
        self._reader, self._starts_s, self._end_s = reader, starts_s, ends_s

    @staticmethod
    def open(path: Path, facts: MediaFacts) -> "_DecordReader | None":
        """A reader, or None where decord cannot read the file as PyAV's probe saw it."""
        import decord  # loads its own FFmpeg: only when frames are wanted

        try:
            reader = decord.VideoReader(str(path), num_threads=1)
            spans = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))), np.float64)
        except (decord.DECORDError, RuntimeError):
            return None
        starts, end = spans[:, 0] - spans[0, 0], float(spans[-1, 1] - spans[0, 0])
        sane = bool(np.all(np.diff(starts) > 0)) and abs(end - facts.duration_s) < TAIL_S
        return _DecordReader(reader, starts, end) if sane else None

    def frames_at(self, times_s: npt.NDArray[np.float64]) -> FramesTHWC | None:
        """The frames, or None where decord fails."""
        import decord

        if times_s[-1] > self._end_s + TAIL_S:
            return None
        indices = np.searchsorted(self._starts_s, times_s + 1e-4, side="right") - 1
        try:
            frames: FramesTHWC = self._reader.get_batch(indices.clip(0)).asnumpy()
        except decord.DECORDError:
            return None
        return frames


def frames_once(
    path: Path, times_s: npt.NDArray[np.float64], threads: int = 1
) -> Iterator[FrameHWC]:
    """The frame on screen at each time, from a file that is opened for these frames alone.

    It seeks, where `Video` reads the whole file first for decord's index: that pays for clips of
    one video after another, not for a few frames of each of many videos. Both give the same pixels.

    Args:
        path: a video file.
        times_s: float64 [T], ascending.
        threads: of the decoder; 0 is one for each core. They change no pixel.

    Yields:
        uint8 [H, W, 3] RGB, one at a time: a decoder walks forward from the key frame before.

    Raises:
        MediaError: the file cannot be opened, is damaged there or ends earlier.
    """
    with opened(path, threads=threads) as (container, stream):
        start_s = float((stream.start_time or 0) * stream.time_base)
        if times_s[0] > 2.0 and container.duration:  # GIF and raw streams cannot seek
            container.seek(int((times_s[0] + start_s) / stream.time_base), stream=stream)
        wanted = list(times_s)
        shown, end_s = None, 0.0
        for frame in _decoded(path, container, stream):
            time_s = float(frame.pts * stream.time_base) - start_s if frame.pts is not None else 0.0
            while wanted and shown is not None and wanted[0] + 1e-4 < time_s:
                yield _as_shown(shown, stream)
                wanted.pop(0)
            if not wanted:
                return
            shown, end_s = frame, time_s + float((frame.duration or 0) * stream.time_base)
        while wanted and shown is not None and wanted[0] <= end_s + TAIL_S:
            yield _as_shown(shown, stream)
            wanted.pop(0)
        if wanted:
            raise MediaError(
                f"{path.name}: no frame at {wanted[0]:.2f} s, the picture ends at {end_s:.2f} s"
            )


def _as_shown(frame: Any, stream: Any) -> FrameHWC:
    """RGB uint8 [H, W, 3] of a decoded frame, upright, with square pixels."""
    picture_hwc = upright(frame.to_ndarray(format="rgb24"), frame.rotation)
    return _square_pixels(picture_hwc, _pixel_aspect(stream), frame.rotation)


def _decoded(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    try:
        yield from container.decode(stream)
    except av.FFmpegError as error:
        raise MediaError(f"{path.name}: decoding stops ({why(error)})") from None


class opened:
    """Context manager: a PyAV container and its best video stream.

    Args:
        path: a video file.
        decoding: FFmpeg's decoder options.
        threads: of the decoder; 0 is one for each core.

    Raises:
        MediaError: the file cannot be opened or holds no video.
    """

    def __init__(
        self, path: Path, decoding: dict[str, str] | None = None, threads: int = 1
    ) -> None:
        self.path, self._decoding, self._threads = path, decoding or {}, threads

    def __enter__(self) -> tuple[Any, Any]:
        try:
            self.container = av.open(str(self.path), metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            reason = why(error)
            raise MediaError(f"{self.path.name}: not a readable video file ({reason})") from None
        stream = self.container.streams.best("video")
        if stream is None:
            self.container.close()
            raise MediaError(f"{self.path.name}: the file holds no video stream")
        # One by default: a worker has one core, and threads halve the speed of probing.
        stream.codec_context.thread_count = self._threads
        if self._threads != 1:
            stream.thread_type = "AUTO"
        stream.codec_context.options = self._decoding
        return self.container, stream

    def __exit__(self, *_: object) -> None:
        self.container.close()


def _duration_s(path: Path, container: Any, stream: Any) -> float:
    """Length of the video stream; containers without one are read to their last packet."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        start_s = float((stream.start_time or 0) * stream.time_base)
        return float(Fraction(container.duration, av.time_base)) - start_s
    with opened(path) as (again, video):
        try:
            ends = [
                float((p.pts + (p.duration or 0)) * video.time_base)
                for p in again.demux(video)
                if p.pts is not None
            ]
        except av.FFmpegError as error:
            raise MediaError(f"{path.name}: the file breaks off ({why(error)})") from None
    if len(ends) < 2:
        raise MediaError(f"{path.name}: a still picture, not a video")
    return max(ends)


def upright(picture_hwc: npt.NDArray[np.uint8], degrees: float) -> npt.NDArray[np.uint8]:
    """A picture turned by a frame's rotation metadata, in quarters, against the clock."""
    return np.ascontiguousarray(np.rot90(picture_hwc, k=int(degrees) // 90 % 4))


def _pixel_aspect(stream: Any) -> float:
    """Width of a stored pixel over its height."""
    return float(stream.sample_aspect_ratio or 1) or 1.0


def _is_square(pixel_aspect: float) -> bool:
    return abs(pixel_aspect - 1) < 0.01


def _square_pixels(picture_hwc: FrameHWC, pixel_aspect: float, rotation: float) -> FrameHWC:
    """An upright picture, stretched where the stored pixels are not square."""
    if _is_square(pixel_aspect):
        return picture_hwc
    height, width = picture_hwc.shape[:2]
    if int(rotation) % 180:  # what was stored as width is the height now
        size = width, round(height * pixel_aspect)
    else:
        size = round(width * pixel_aspect), height
    return np.asarray(Image.fromarray(picture_hwc).resize(size))


def why(error: OSError) -> str:
    """What FFmpeg or the system says is wrong, without the path."""
    return error.strerror or type(error).__name__  # str(error) would add the absolute path


_open = threading.local()


def open_video(path: Path) -> Video:
    """The video at path; the last one stays open, since a video's clips come one after another.

    Each thread has its own: a decoder must not be shared.
    """
    if getattr(_open, "path", None) != path:
        _open.path = None  # should opening fail
        _open.video = Video(path)
        _open.path = path
    video: Video = _open.video
    return video
