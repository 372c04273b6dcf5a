"""Hands: look at the frames of a clip that cost least, and store what is seen in each.

The decision is not made here: `select` reads the stored numbers, so thresholds cost no decoding.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from handloom.errors import MediaError
from handloom.stages.hands import landmarker
from handloom.stages.hands import schedule as sampling
from handloom.stages.hands.recheck import NEVER, LookOptions, first_look, look_again
from handloom.stages.hands.rows import CONFIDENT, Hand, HandRow
from handloom.stages.hands.schedule import Outside, Plan, Sample
from handloom.stages.media import shots
from handloom.stages.media.key_frames import SmallFrame, SmallVideo
from handloom.stages.quality.columns import EMPTY_COLUMNS, measure_columns
from handloom.stages.quality.frames import change, small_luma
from handloom.stages.stage import Stage
from handloom.stages.tables.rows import Clip, Row
from handloom.tokenize.shards import sha256_file

DETECTIONS_KEPT = 256
# Clips of videos so many times as long are looked at quickly: there are many of them, and second
# looks would cost more than all else. Of a short file decoding is the greater part.
LONG_VIDEO = 2.0
QUICK_LOOKS = 8  # at most
QUICK: dict[str, Any] = {"blind_looks": 0, "gap_share": NEVER, "check_lone": False}
# A clip that has hardly moved is not taken for a still one before a few more frames were seen.
HARDLY_MOVED, MORE_FRAMES = 0.05, 3


@dataclass(frozen=True)
class Seen:
    """A decoded frame of a clip, and the hands in it, or None where none were looked for."""

    time_s: float
    picture_hwc: npt.NDArray[np.uint8]
    luma_hw: npt.NDArray[np.uint8]
    """Its `small_luma`."""
    hands: list[Hand] | None = None


@dataclass(frozen=True)
class Hands(Stage):
    """Options of `hands`."""

    name: ClassVar[str] = "hands"
    row_type: ClassVar[type[Row]] = HandRow
    code_version: ClassVar[int] = 6
    filters: ClassVar[bool] = True  # a clip that cannot be decoded goes no further

    until_clear: bool = True
    """Look at the cheapest frames, and at more only until the answer is clear; otherwise at all
    `frames_per_second`."""
    frames_per_second: float = 2.0
    """Of frames sampled by time: where a clip holds fewer than four key frames."""
    min_frames: int = 4
    """Frames by time in a clip that is shorter than two seconds."""
    short_side: int = 384
    """Larger frames are shrunk to this before detection; 384 loses no recall on real footage."""
    shots: bool = False
    """Look for shot changes, for edited video; a clip is then cut to its longest shot."""
    look: LookOptions = field(default_factory=LookOptions)

    def models(self) -> dict[str, str]:
        """SHA-256 of the landmarker."""
        return {landmarker.MODEL.name: sha256_file(landmarker.MODEL)}

    def setup(self) -> None:
        """Load the landmarker on this worker."""
        import cv2

        cv2.setNumThreads(1)  # a worker has one core
        look = self.look
        for confidence in {look.detection_confidence, look.check_confidence}:
            landmarker.load(look.max_hands, confidence, look.presence_confidence)

    def __call__(self, clip: Clip) -> Iterator[HandRow]:
        """Look for hands in a clip's cheapest frames, and measure these frames."""
        opened = open_small(self.data / clip.media_path, self)
        span_s = clip.end_s - clip.start_s
        quick = self.until_clear and clip.duration_s > LONG_VIDEO * span_s
        plan = self._plan(clip, opened.video, quick)
        frames = in_time(self._looks(plan, opened, quick))
        cuts_s = self._cuts(frames, opened.video) if self.shots else []
        yield row_of(clip, self._looked_again(frames, quick), cuts_s)

    def failed(self, error: str, clip: Clip) -> Iterator[HandRow]:
        """A row without frames."""
        yield HandRow(
            clip_id=clip.clip_id,
            status="failed",
            error=error,
            times_s=[],
            detector_ran=[],
            hand_counts=[],
            confidence=[],
            detections=[],
            cuts_s=[],
            shot_start_s=clip.start_s,
            shot_end_s=clip.end_s,
            **EMPTY_COLUMNS,
        )

    def _plan(self, clip: Clip, video: SmallVideo, quick: bool) -> Plan:
        span, rate = (clip.start_s, clip.end_s), (self.frames_per_second, self.min_frames)
        if self.shots or not self.until_clear:  # a cut can only be seen between two frames
            return sampling.every(*span, *rate)
        order = sampling.nearest_first if quick else sampling.cheapest_first
        return order(*span, video.keys_s, *rate)

    def _looks(self, plan: Plan, opened: "_Opened", quick: bool) -> Iterator[Seen]:
        """Frames in the plan's order, hands looked for until the answer is clear."""
        hits = misses = 0
        lumas: list[npt.NDArray[np.uint8]] = []
        for number, sample in enumerate(plan.samples):
            done = self.until_clear and sampling.clear(hits, misses, quick, len(plan.outside))
            done = done or (number >= plan.enough and not hits)
            done = done or (quick and number >= QUICK_LOOKS)
            spare = number - plan.stored
            if done and (spare >= MORE_FRAMES or (spare >= 0 and change(lumas) > HARDLY_MOVED)):
                break
            frame = opened.frame(sample)
            lumas.append(small_luma(frame.picture_hwc))
            hands = None if done else opened.hands(frame)
            yield Seen(frame.time_s, frame.picture_hwc, lumas[-1], hands)
            hits, misses = hits + bool(hands), misses + (hands == [])
        more = [] if hits else opened.near_hands(plan.outside)
        if more:
            yield from self._looks(Plan(more, stored=0, enough=len(more)), opened, quick)

    def _looked_again(self, frames: list[Seen], quick: bool) -> list[Seen]:
        """The frames with their hands rated, and with hands that the first look missed."""
        looked = [frame for frame in frames if frame.hands is not None]
        look = replace(self.look, **QUICK) if quick else self.look
        found = [
            [Hand(**{**hand, "frame": number}) for hand in frame.hands or []]
            for number, frame in enumerate(looked)
        ]
        rated = iter(look_again([frame.picture_hwc for frame in looked], found, look))
        return [f if f.hands is None else replace(f, hands=next(rated)) for f in frames]

    def _cuts(self, frames: list[Seen], video: SmallVideo) -> list[float]:
        def decode(start_s: float, end_s: float) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
            return video.every_frame(start_s, end_s, shots.SHORT_SIDE)

        pictures, times_s = [f.picture_hwc for f in frames], [f.time_s for f in frames]
        return shots.shot_changes(times_s, pictures, decode, shots.ShotOptions())


def in_time(seen: Iterator[Seen]) -> list[Seen]:
    """Frames in the order of time, each once: a slow picture is on screen at several times."""
    once: dict[float, Seen] = {}
    for frame in seen:
        if frame.time_s not in once or once[frame.time_s].hands is None:
            once[frame.time_s] = frame
    return [once[time_s] for time_s in sorted(once)]


def row_of(clip: Clip, frames: list[Seen], cuts_s: list[float]) -> HandRow:
    """What is stored of a clip's frames, which are given in the order of time."""
    start_s, end_s = shots.longest_run(clip.start_s, clip.end_s, cuts_s)
    return HandRow(
        clip_id=clip.clip_id,
        times_s=[frame.time_s for frame in frames],
        detector_ran=[frame.hands is not None for frame in frames],
        hand_counts=[
            sum(hand["confidence"] >= CONFIDENT for hand in frame.hands or []) for frame in frames
        ],
        confidence=[
            max((h["confidence"] for h in frame.hands or []), default=0.0) for frame in frames
        ],
        detections=[
            Hand(**{**hand, "frame": number})
            for number, frame in enumerate(frames)
            for hand in frame.hands or []
        ],
        cuts_s=cuts_s,
        shot_start_s=start_s,
        shot_end_s=end_s,
        **measure_columns([f.picture_hwc for f in frames], [f.luma_hw for f in frames]),
    )


@dataclass
class _Opened:
    """A video and what was found in its frames: neighbouring clips share both."""

    video: SmallVideo
    stage: Hands
    found: dict[float, list[Hand]] = field(default_factory=dict)

    def frame(self, sample: Sample) -> SmallFrame:
        """A frame of the plan."""
        if sample.key is not None:
            return self.video.key_frame(sample.key)
        return self.video.frame_at(sample.time_s)

    def near_hands(self, outside: list[Outside]) -> list[Sample]:
        """Frames of a clip that are next to a hand outside of it."""
        return [sample for side in outside if self.shows_hand(side.key) for sample in side.near]

    def shows_hand(self, outside: Sample) -> bool:
        """Whether a frame that is not of the clip shows a hand; damage there is not the clip's."""
        try:
            return bool(self.hands(self.frame(outside)))
        except MediaError:
            return False

    def hands(self, frame: SmallFrame) -> list[Hand]:
        """Hands in a frame; their frame number is still open."""
        if frame.time_s not in self.found:
            if len(self.found) >= DETECTIONS_KEPT:
                del self.found[next(iter(self.found))]
            self.found[frame.time_s] = first_look(frame.picture_hwc, 0, self.stage.look)
        return self.found[frame.time_s]


_open: dict[tuple[Path, Hands], _Opened] = {}


def open_small(path: Path, stage: Hands) -> _Opened:
    """The video at path as a stage sees it; the last one stays open."""
    if (path, stage) not in _open:
        for opened in _open.values():
            opened.video.close()
        _open.clear()
        _open[path, stage] = _Opened(SmallVideo(path, stage.short_side), stage)
    return _open[path, stage]
