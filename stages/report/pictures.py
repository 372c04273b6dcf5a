"""The report's pictures of clips, inside the HTML file as JPEGs."""

import base64
import html
import io
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from handloom.errors import MediaError
from handloom.stages.hands.rows import Framing, Hand
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.media.clip_frames import pictures_of, whole
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip, EpisodePlace, Row

R = TypeVar("R", bound=Row)
FrameHWC = npt.NDArray[np.uint8]

THUMBNAIL_PX = 160


@dataclass(frozen=True, kw_only=True)
class _Sampled(Row):
    """The columns of the `hands` table that a thumbnail is chosen by and drawn from."""

    times_s: list[float]
    hand_counts: list[int]
    detections: list[Hand]


@dataclass(frozen=True)
class Pictures:
    """A run's tables, and its ingest stage, which opens the media."""

    tables: Tables
    ingest: Stage

    def row(self, stage: str, row_type: type[R], clip: Clip) -> R:
        """A clip's row of a table; KeyError where there is none."""
        return self.tables[stage].get(row_type, clip.bucket, clip.clip_id)

    def framing(self, clip: Clip) -> Framing:
        """The part of a kept clip that models get."""
        return self.row("hands", Framing, clip) if "hands" in self.tables else whole(clip)

    def frames(
        self, clip: Clip, framing: Framing, times_s: npt.NDArray[np.float64]
    ) -> list[FrameHWC]:
        """Frames at times in seconds from the start of the file or episode."""
        if isinstance(self.ingest, EpisodeIngest):
            place = self.row("ingest", EpisodePlace, clip)
            return list(self.ingest.pictures.frames(place, framing, times_s))
        return list(pictures_of(self.ingest).frames(clip, framing, times_s))

    def card(self, clip: Clip, framing: Framing, text: str, note: str) -> str:
        """A thumbnail with a text and a note below it, as HTML."""
        return (
            f"<figure>{self._thumbnail(clip, framing)}<figcaption>{html.escape(text)}<br>"
            f"<small>{html.escape(note)}</small></figcaption></figure>"
        )

    def uncut_card(self, clip: Clip, note: str) -> str:
        """A card of a rejected clip, with its bars, which may be the reason."""
        return self.card(clip, whole(clip), clip.text, note)

    def _thumbnail(self, clip: Clip, framing: Framing) -> str:
        """The sampled frame with the most hands, boxes drawn; without samples the middle."""
        time_s, boxes = (clip.start_s + clip.end_s) / 2, []
        hands = self._hands(clip)
        if hands and hands.times_s:
            best = _most_hands(hands, framing)
            time_s = hands.times_s[best]
            boxes = [hand["box_xyxy"] for hand in hands.detections if hand["frame"] == best]
        try:
            (frame_hwc,) = self.frames(clip, framing, np.array([time_s]))
        except (MediaError, ValueError, OverflowError):  # overflow: the end of a file never opened
            return "<div class=nothing>no picture</div>"
        return jpeg(_draw(frame_hwc, [_in_picture(box, framing) for box in boxes]), THUMBNAIL_PX)

    def _hands(self, clip: Clip) -> _Sampled | None:
        try:
            return self.row("hands", _Sampled, clip)
        except KeyError:
            return None  # the clip ended before `hands`, or is a robot's


def jpeg(frame_hwc: FrameHWC, height: int) -> str:
    """An `img` element of a frame, at most so many pixels high."""
    buffer = io.BytesIO()
    picture = Image.fromarray(frame_hwc)
    picture.thumbnail((10_000, height))
    picture.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'


def _most_hands(hands: _Sampled, framing: Framing) -> int:
    """The frame with the most hands, within the shot; of several the one nearest to the middle."""
    counts, middle = hands.hand_counts, len(hands.hand_counts) // 2
    inside = [framing.shot_start_s <= time_s <= framing.shot_end_s for time_s in hands.times_s]
    return max(range(len(counts)), key=lambda i: (inside[i], counts[i], -abs(i - middle)))


def _in_picture(box_xyxy: list[float], framing: Framing) -> list[float]:
    """A box relative to the frame as one relative to the picture without bars."""
    left, top, right, bottom = framing.picture_xyxy
    x0, y0, x1, y1 = box_xyxy
    width, height = right - left, bottom - top
    return [(x0 - left) / width, (y0 - top) / height, (x1 - left) / width, (y1 - top) / height]


def _draw(frame_hwc: FrameHWC, boxes: list[list[float]]) -> FrameHWC:
    picture = Image.fromarray(frame_hwc)
    pen = ImageDraw.Draw(picture)
    for x0, y0, x1, y1 in boxes:
        box = (x0 * picture.width, y0 * picture.height, x1 * picture.width, y1 * picture.height)
        pen.rectangle(box, outline=(60, 220, 90), width=max(2, picture.width // 160))
    return np.asarray(picture)
