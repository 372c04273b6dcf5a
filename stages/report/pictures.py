"""The report's cards of clips: a picture, a strip of the frames that were searched, and words."""

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from handloom import svg
from handloom.errors import MediaError
from handloom.stages.hands.rows import CONFIDENT, Framing
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.media.clip_frames import pictures_of, whole
from handloom.stages.report import strip
from handloom.stages.report.searched import Search, SearchedRow
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip, EpisodePlace, Row

R = TypeVar("R", bound=Row)


def _where(clip: Clip) -> str:
    """A clip's file and seconds."""
    name = clip.media_path.rpartition("/")[2] or clip.video_id
    return f"{name} {clip.start_s:.1f} to {clip.end_s:.1f} s"


@dataclass(frozen=True)
class Pictures:
    """A run's tables, and its ingest stage, which opens the media.

    A clip is decoded once, however often it is shown.

    Attributes:
        min_confidence: hands of a lower confidence do not count.
    """

    tables: Tables
    ingest: Stage
    min_confidence: float = CONFIDENT
    _drawn: dict[tuple[str, tuple[float, ...]], str] = field(default_factory=dict)
    """HTML by clip and part of the frame."""

    def row(self, stage: str, row_type: type[R], clip: Clip) -> R:
        """A clip's row of a table; KeyError where there is none."""
        return self.tables[stage].get(row_type, clip.bucket, clip.clip_id)

    def framing(self, clip: Clip) -> Framing:
        """The part of a kept clip that models get."""
        return self.row("hands", Framing, clip) if "hands" in self.tables else whole(clip)

    def search(self, clip: Clip) -> Search | None:
        """The search for hands; None if the clip ended before `hands`, or is a robot's."""
        try:
            return Search(self.row("hands", SearchedRow, clip), self.min_confidence)
        except KeyError:
            return None

    def frames(
        self, clip: Clip, framing: Framing, times_s: npt.NDArray[np.float64]
    ) -> Iterator[strip.FrameHWC]:
        """Frames at times in seconds from the start of the file or episode, one by one."""
        if isinstance(self.ingest, EpisodeIngest):
            place = self.row("ingest", EpisodePlace, clip)
            return iter(self.ingest.pictures.frames(place, framing, times_s))
        return pictures_of(self.ingest).frames(clip, framing, times_s)

    def prepare(self, kept: Iterable[Clip], uncut: Iterable[Clip]) -> None:
        """Draw the clips of cards to come, file by file: neighbours share an open decoder.

        Args:
            kept: clips that `card` will show by their framing.
            uncut: clips of `uncut_card`.
        """
        framed = [(clip, self.framing(clip)) for clip in kept]
        framed += [(clip, whole(clip)) for clip in uncut]
        for clip, framing in sorted(framed, key=lambda one: (one[0].media_path, one[0].start_s)):
            self._pictures(clip, framing)

    def card(self, clip: Clip, framing: Framing, text: str, note: str, named: bool = False) -> str:
        """A clip's pictures, with a text, hits and looks, a note, its file and id below, as HTML.

        Args:
            clip: the clip.
            framing: the part of its frames that is shown.
            text: below the pictures.
            note: below that.
            named: whether links to the clip lead here; of one card of each clip.
        """
        search = self.search(clip)
        notes = [note, search.sentence() if search else "", _where(clip)]
        words = " · ".join(html.escape(part) for part in notes if part)
        anchor = f' id="{html.escape(clip.clip_id)}"' if named else ""
        link = svg.anchor(clip.clip_id, clip.clip_id)
        return (
            f"<figure{anchor}>{self._pictures(clip, framing)}<figcaption>{html.escape(text)}<br>"
            f"<small>{words} · {link}</small></figcaption></figure>"
        )

    def uncut_card(self, clip: Clip, note: str, named: bool = False) -> str:
        """A card of a clip with its bars, which may be the reason of its rejection."""
        return self.card(clip, whole(clip), clip.text, note, named)

    def _pictures(self, clip: Clip, framing: Framing) -> str:
        key = clip.clip_id, tuple(framing.picture_xyxy)
        if key not in self._drawn:
            self._drawn[key] = self._draw(clip, framing)
        return self._drawn[key]

    def _draw(self, clip: Clip, framing: Framing) -> str:
        search, times_s = self.search(clip), [(clip.start_s + clip.end_s) / 2]
        if search and search.frames:
            times_s = [search.row.times_s[frame] for frame in search.shown]
        small = []
        try:
            for frame_hwc in self.frames(clip, framing, np.array(times_s)):
                small.append(strip.shrunk(frame_hwc))
        except (MediaError, ValueError, OverflowError):  # overflow: the end of a file never opened
            pass
        if not small:
            return "<div class=nothing>no picture</div>"
        if not search or not search.frames:
            return strip.image(small[0])
        return strip.pictures(search, dict(zip(search.shown, small, strict=False)), framing)
