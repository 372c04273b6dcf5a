"""A clip's video as a browser can play it: the source's own file, or its span encoded anew.

Paths come from the rows of the `ingest` table alone, and must lie below the dataset's folder.
"""

import io
import threading
from collections.abc import Iterator
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from handloom.errors import MediaError
from handloom.stages.datasets.source import refuse_outside, stat_file
from handloom.stages.hands.rows import Framing
from handloom.stages.ingest.videos import Ingest
from handloom.stages.media.clip_frames import ClipFrames, whole
from handloom.stages.media.container import SAME_S, Container
from handloom.stages.media.display import FrameHWC, Shrinker, pixel_aspect
from handloom.stages.media.episode_views import EpisodeViews
from handloom.stages.tables.rows import Clip, EpisodePlace
from handloom.tars import tar_of
from handloom.view.clip_rows import ClipRows
from handloom.view.run import Unknown

OTHER_FOLDER = "copy the file there"
SHORT_SIDE = 480  # pixels of an encoded span; smaller videos stay as they are
VIEW_SIDE = 320  # height of a camera in a robot's video
MOST_FPS = 30.0
UNKNOWN_FPS = 10.0  # of a robot whose source states no rate
KEY_EVERY = 15  # frames: stepping backwards decodes at most so many
BIT_RATE = 3_000_000
STARTS_AT_0_S = (
    0.01  # browsers and FFmpeg count the seconds of a file that starts later differently
)
MOST_S = 600.0  # of a span that is encoded

MIME = {  # by suffix and codec; a browser says which of them it plays
    (".mp4", "h264"): 'video/mp4; codecs="avc1.640028"',
    (".mov", "h264"): 'video/mp4; codecs="avc1.640028"',
    (".m4v", "h264"): 'video/mp4; codecs="avc1.640028"',
    (".mp4", "hevc"): 'video/mp4; codecs="hvc1.1.6.L120.B0"',
    (".mp4", "av1"): 'video/mp4; codecs="av01.0.08M.08"',
    (".mp4", "vp9"): 'video/mp4; codecs="vp09.00.40.08"',
    (".webm", "vp9"): 'video/webm; codecs="vp9"',
    (".webm", "vp8"): 'video/webm; codecs="vp8"',
    (".webm", "av1"): 'video/webm; codecs="av01.0.08M.08"',
}

Frames = Iterator[tuple[float, FrameHWC]]
"""Frames with the seconds from the start of the span at which they appear."""


class ClipMedia:
    """Opens the media of a run's clips.

    Args:
        rows: of the run.
    """

    def __init__(self, rows: ClipRows) -> None:
        self.rows = rows
        self._one_episode = threading.Lock()  # open episodes must not be shared by threads

    def clip(self, clip_id: str) -> Clip:
        """A clip's row of the `ingest` table: of robots an `EpisodePlace`.

        Raises:
            Unknown: there is none.
        """
        row_type = EpisodePlace if self.rows.recorded.holds_episodes else Clip
        row = self.rows.row("ingest", clip_id, [f.name for f in fields(row_type)])
        if row is None:
            raise Unknown(f"{self.rows.run.out} holds no clip {clip_id[:40]!r}.")
        return row_type(**row)

    def framing(self, clip: Clip) -> Framing:
        """The part of a clip that models get; all of a clip that did not come to `hands`."""
        columns = ["clip_id", "status", "shot_start_s", "shot_end_s", "picture_xyxy"]
        row = self.rows.row("hands", clip.clip_id, columns)
        if row is None or row["status"] == "failed":
            return whole(clip)
        return Framing(**row)

    def file(self, clip: Clip) -> Path:
        """The clip's media file.

        Raises:
            MediaError: it is missing, lies outside of the data folder, or is no file.
        """
        if not clip.media_path:
            raise MediaError("the clip's row names no media file: the dataset has none for it")
        data = self.rows.recorded.data
        if not self._follows_links or ".." in Path(clip.media_path).parts:
            refuse_outside(data, clip.media_path, OTHER_FOLDER)
        stat_file(data, clip.media_path)
        return data / clip.media_path

    @property
    def _follows_links(self) -> bool:
        ingest = self.rows.stage("ingest")
        return isinstance(ingest, Ingest) and ingest.follow_links

    def source_type(self, clip: Clip) -> str:
        """MIME type of the clip's own file, where its pictures may be shown as they are; else "".

        A mask or blur of the user's is never passed by.
        """
        pictures = self.rows.recorded.pictures
        mime = MIME.get((Path(clip.media_path).suffix.lower(), clip.codec), "")
        if not mime or not isinstance(pictures, ClipFrames) or pictures.transform:
            return ""
        file = self.file(clip)
        if tar_of(file):
            return ""  # the file on disk is the tar
        with Container(file) as container:
            return mime if abs(container.start_s) < STARTS_AT_0_S else ""

    def picture(self, clip: Clip) -> list[float]:
        """The part of the stored picture that the clip's video shows: left, top, right, bottom."""
        pictures = self.rows.recorded.pictures
        if isinstance(pictures, ClipFrames) and pictures.transform:
            return self.framing(clip).picture_xyxy
        return [0.0, 0.0, 1.0, 1.0]

    def write_span(self, clip: Clip, path: Path, columns: int = 1) -> None:
        """Write the clip's span as WebM; its first frame is the one on screen at its start.

        Args:
            clip: the clip.
            path: the file to write.
            columns: cameras of a robot that stand side by side.
        """
        pictures = self.rows.recorded.pictures
        if isinstance(pictures, EpisodeViews):
            assert isinstance(clip, EpisodePlace)
            _refuse_unopened(clip)
            with self._one_episode:
                write_webm(path, episode_frames(pictures, clip, columns), shown_fps(clip))
            return
        file, end_s = self.file(clip), span_end_s(clip)
        if pictures.transform:
            frames = _through_the_door(pictures, clip, self.framing(clip), end_s)
        else:
            frames = span_frames(file, clip.start_s, end_s)
        write_webm(path, frames, clip.fps or MOST_FPS)

    def thumbnail(self, clip: Clip, size: int, share: float | None = None) -> bytes:
        """A JPEG of a clip, at most `size` pixels wide and high.

        Args:
            clip: the clip.
            size: pixels.
            share: of the clip's longest shot, 0 to 1; by default where most hands were detected.
        """
        framing = self.framing(clip)
        time_s = self._best_s(clip, framing) if share is None else None
        if time_s is None:
            seconds = min(framing.shot_end_s, clip.duration_s or framing.shot_end_s)
            share = 0.5 if share is None else min(max(share, 0.0), 0.98)
            time_s = framing.shot_start_s + share * (seconds - framing.shot_start_s)
        return jpeg(self.frame(clip, framing, time_s), size)

    def step(self, clip: EpisodePlace, view: int, step: int) -> FrameHWC:
        """The picture of a robot's camera, by number, at a step of the source."""
        pictures = self.rows.recorded.pictures
        assert isinstance(pictures, EpisodeViews)
        _refuse_unopened(clip)
        with self._one_episode:
            return list(pictures.views(clip).values())[view][step]

    def frame(self, clip: Clip, framing: Framing, time_s: float) -> FrameHWC:
        """The frame on screen at a time, as models see it; of robots that of the main camera."""
        pictures, times_s = self.rows.recorded.pictures, np.array([time_s])
        if isinstance(pictures, EpisodeViews):
            assert isinstance(clip, EpisodePlace)
            with self._one_episode:
                return next(pictures.frames(clip, framing, times_s))
        self.file(clip)
        return next(pictures.frames(clip, framing, times_s))

    def _best_s(self, clip: Clip, framing: Framing) -> float | None:
        """When the most hands were detected, within the longest shot; None without any search."""
        row = self.rows.row("hands", clip.clip_id, ["times_s", "hand_counts", "detector_ran"])
        if row is None:
            return None
        middle_s = (framing.shot_start_s + framing.shot_end_s) / 2
        searched = [
            (hands, -abs(time_s - middle_s), time_s)
            for time_s, hands, ran in zip(*(row[k] for k in row), strict=True)
            if ran and framing.shot_start_s <= time_s <= framing.shot_end_s
        ]
        return max(searched)[2] if searched else None


def span_end_s(clip: Clip) -> float:
    """When a clip ends; of one that means the whole of its file, when that ends."""
    end_s = clip.end_s if np.isfinite(clip.end_s) else clip.duration_s
    return min(end_s, clip.start_s + MOST_S)


def span_frames(path: Path, start_s: float, end_s: float) -> Frames:
    """All frames of a span of a file, upright and small; the first is on screen at its start."""
    shrink, held = Shrinker(SHORT_SIDE), None
    with Container(path, threads=0) as container:
        aspect = pixel_aspect(container.stream)
        for shown in container.frames_from(start_s):
            if shown.time_s >= end_s - SAME_S:
                break
            if held is not None and shown.time_s > start_s + SAME_S:
                yield max(0.0, held.time_s - start_s), shrink(held.picture, aspect)
            held = shown
        if held is None:
            raise MediaError(f"{path.name}: the span holds no frame")
        yield max(0.0, held.time_s - start_s), shrink(held.picture, aspect)


def _through_the_door(pictures: ClipFrames, clip: Clip, framing: Framing, end_s: float) -> Frames:
    """The frames of a span after the user's mask or blur, without bars, at a constant rate."""
    rate = min(clip.fps or MOST_FPS, MOST_FPS)
    times_s = np.arange(0.0, end_s - clip.start_s, 1 / rate)
    frames = pictures.frames(clip, framing, clip.start_s + times_s)
    for time_s, frame_hwc in zip(times_s, frames, strict=True):
        yield float(time_s), smaller(frame_hwc, SHORT_SIDE)


def _refuse_unopened(clip: EpisodePlace) -> None:
    """Raise MediaError for an episode whose row does not say where it is, nor its cameras."""
    if not clip.views:
        raise MediaError("the episode was not opened")


def episode_frames(pictures: EpisodeViews, clip: EpisodePlace, columns: int) -> Frames:
    """The cameras of an episode in one picture, so that they stay in step."""
    views = list(pictures.views(clip).values())
    if not views:
        raise MediaError("the episode holds no pictures")
    for step in range(0, min(map(len, views)), stride(clip)):
        sheet = tiled([smaller(view[step], VIEW_SIDE) for view in views], columns)
        yield step / (clip.fps or UNKNOWN_FPS), sheet


def stride(clip: EpisodePlace) -> int:
    """Steps of an episode from one frame of its video to the next."""
    return max(1, round((clip.fps or UNKNOWN_FPS) / MOST_FPS))


def shown_fps(clip: Clip) -> float:
    """Frames a second of a clip's video."""
    fps = clip.fps or UNKNOWN_FPS
    return fps / stride(clip) if isinstance(clip, EpisodePlace) else fps


def tiled(pictures: list[FrameHWC], columns: int) -> FrameHWC:
    """Pictures side by side in rows of so many, each in the middle of a cell of equal size."""
    rows = -(-len(pictures) // columns)
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for place, picture in enumerate(pictures):
        top = place // columns * height + (height - picture.shape[0]) // 2
        left = place % columns * width + (width - picture.shape[1]) // 2
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def smaller(frame_hwc: FrameHWC, short_side: int) -> FrameHWC:
    """A frame, its short side at most so many pixels."""
    height, width = frame_hwc.shape[:2]
    share = short_side / min(height, width)
    if share >= 1:
        return frame_hwc
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(Image.fromarray(frame_hwc).resize(size, reducing_gap=2.0))


def jpeg(frame_hwc: FrameHWC, size: int) -> bytes:
    """A JPEG of a frame, at most `size` pixels wide and high."""
    picture, file = Image.fromarray(frame_hwc), io.BytesIO()
    picture.thumbnail((size, size), reducing_gap=2.0)
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


def write_webm(path: Path, frames: Frames, fps: float) -> None:
    """Write frames as VP8, which every browser plays.

    Args:
        path: the file to write.
        frames: of any size; that of the first counts.
        fps: about how many a second.

    Raises:
        MediaError: there are none.
    """
    first = next(frames, None)
    if first is None:
        raise MediaError("the clip holds no frame")
    height, width = (side - side % 2 or 2 for side in first[1].shape[:2])
    with av.open(str(path), "w", format="webm") as file:
        stream = _vp8(file, width, height, fps)
        before_ms = -1
        for time_s, frame_hwc in _again(first, frames):
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(_fitted(frame_hwc, width, height)), format="rgb24"
            )
            before_ms = max(round(time_s * 1000), before_ms + 1)
            picture.pts, picture.time_base = before_ms, Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


def _vp8(file: Any, width: int, height: int, fps: float) -> Any:
    stream = file.add_stream("libvpx", rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.bit_rate, stream.gop_size = BIT_RATE, KEY_EVERY
    stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
    stream.options = {"deadline": "realtime", "cpu-used": "8", "crf": "16"}
    return stream


def _again(first: tuple[float, FrameHWC], others: Frames) -> Frames:
    yield first
    yield from others


def _fitted(frame_hwc: FrameHWC, width: int, height: int) -> FrameHWC:
    """A frame of the video's size: an odd row or column is cut off, other sizes are scaled."""
    if abs(frame_hwc.shape[0] - height) <= 1 and abs(frame_hwc.shape[1] - width) <= 1:
        return frame_hwc[:height, :width]
    return np.asarray(Image.fromarray(frame_hwc).resize((width, height)))
