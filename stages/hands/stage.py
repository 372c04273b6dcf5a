"""Hands: detect hands in the frames of a clip that cost least, and measure these frames.

The decision is not made here: `select` reads the stored numbers, so thresholds cost no decoding.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from handloom.stages.hands import landmarker
from handloom.stages.hands import schedule as sampling
from handloom.stages.hands.recheck import NEVER, DetectOptions, detect, recheck
from handloom.stages.hands.rows import CONFIDENT, CONFIRMED, Hand, HandRow
from handloom.stages.hands.schedule import Plan
from handloom.stages.media import shots
from handloom.stages.media.key_frames import SmallFrame, SmallVideo
from handloom.stages.media.transitions import Transition
from handloom.stages.quality.columns import EMPTY_COLUMNS, FrameMeasures, measure_columns
from handloom.stages.quality.frames import change, small_luma
from handloom.stages.stage import Stage
from handloom.stages.tables.rows import Footage, Row
from handloom.tokenize.shards import sha256_file

DETECTIONS_KEPT = 256  # frames of a video
MEASURES_KEPT = 64  # frames; 65 kB each
# Clips of videos so many times as long are searched where decoding is cheapest.
LONG_VIDEO = 2.0
# A clip that has hardly moved is not taken for a still one before a few more frames are decoded.
HARDLY_MOVED, MORE_FRAMES = 0.05, 3


@dataclass(frozen=True)
class SampledFrame:
    """A decoded frame of a clip, and its hands; None where the detector did not run."""

    time_s: float
    picture_hwc: npt.NDArray[np.uint8]
    measures: FrameMeasures
    hands: list[Hand] | None = None


@dataclass(frozen=True)
class Hands(Stage):
    """Options of `hands`."""

    name: ClassVar[str] = "hands"
    row_type: ClassVar[type[Row]] = HandRow
    code_version: ClassVar[int] = 9
    clip_type: ClassVar[type[Footage]] = Footage
    filters: ClassVar[bool] = True  # a clip that cannot be decoded goes no further

    until_clear: bool = True
    """Search frames until a quarter shows a hand; otherwise all `frames_per_second`, and those
    without a hand again where others show one."""
    frames_per_second: float = 2.0
    """Frames per second of video that are searched."""
    min_frames: int = 4
    """Frames by time at least, in a clip that is shorter than two seconds."""
    short_side: int = 384
    """Larger frames are shrunk to this short side before detection, pixels; 384 loses no recall on
    real footage."""
    shots: bool = False
    """Detect cuts, dissolves and fades, as in edited video; a clip is cut to its longest shot."""
    look: DetectOptions = field(default_factory=DetectOptions)

    def models(self) -> dict[str, str]:
        """SHA-256 of the landmarker."""
        return {landmarker.MODEL.name: sha256_file(landmarker.MODEL)}

    def setup(self) -> None:
        """Load the landmarker on this worker."""
        import cv2

        cv2.setNumThreads(1)  # a worker has one core
        options = self.look
        for palm_score in {options.detection_confidence, options.weak_confidence}:
            landmarker.load(options.max_hands, palm_score, options.presence_confidence)

    def __call__(self, clip: Footage) -> Iterator[HandRow]:
        """Detect hands in a clip's cheapest frames, and measure these frames."""
        opened = open_video(self.data / clip.media_path, self)
        span_s = clip.end_s - clip.start_s
        quick = self.until_clear and not self.shots and clip.duration_s > LONG_VIDEO * span_s
        plan = self._plan(clip, opened.video, quick)
        frames = in_time(self._search(plan, opened))
        cuts = self._cuts(frames, opened.video) if self.shots else []
        yield hand_row(clip, self._rechecked(frames), cuts)

    def failed(self, error: str, clip: Footage) -> Iterator[HandRow]:
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

    def _plan(self, clip: Footage, video: SmallVideo, quick: bool) -> Plan:
        span, rate = (clip.start_s, clip.end_s), (self.frames_per_second, self.min_frames)
        if not quick:
            return sampling.whole_grid(*span, *rate)
        return sampling.nearest_first(*span, video.keys_around(*span), *rate)

    def _search(self, plan: Plan, opened: "_OpenVideo") -> Iterator[SampledFrame]:
        """Frames in the plan's order; the detector runs until the answer is clear."""
        # A cut only shows between two frames, so that edited video is decoded to its end.
        stored = len(plan.times_s) if self.shots else sampling.STORED
        hits: set[float] = set()  # times: a slow picture counts once
        lumas: list[npt.NDArray[np.uint8]] = []
        for number, time_s in enumerate(plan.times_s):
            done = self.until_clear and plan.is_clear(len(hits))
            # Frames after the answer are decoded for their measures, without detection.
            spare = number - stored
            if done and (spare >= MORE_FRAMES or (spare >= 0 and change(lumas) > HARDLY_MOVED)):
                break
            frame = opened.video.frame_at(time_s)
            measures = opened.measures(frame)
            lumas.append(measures.luma_hw)
            hands = None if done else opened.hands(frame)
            yield SampledFrame(frame.time_s, frame.picture_hwc, measures, hands)
            if any(hand["confidence"] >= CONFIRMED for hand in hands or []):
                hits.add(frame.time_s)

    def _rechecked(self, frames: list[SampledFrame]) -> list[SampledFrame]:
        """The frames with their hands rated, and with hands that the first pass missed."""
        searched = [frame for frame in frames if frame.hands is not None]
        # Gaps after an early yes are not worth their cost: most frames were not even decoded.
        options = replace(self.look, gap_share=NEVER) if self.until_clear else self.look
        detected = [_numbered(frame.hands, number) for number, frame in enumerate(searched)]
        rated = iter(recheck([frame.picture_hwc for frame in searched], detected, options))
        return [f if f.hands is None else replace(f, hands=next(rated)) for f in frames]

    def _cuts(self, frames: list[SampledFrame], video: SmallVideo) -> list[Transition]:
        def decode(start_s: float, end_s: float) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
            return video.every_frame(start_s, end_s, shots.SHORT_SIDE)

        pictures, times_s = [f.picture_hwc for f in frames], [f.time_s for f in frames]
        return shots.shot_changes(times_s, pictures, decode, shots.ShotOptions())


def in_time(frames: Iterator[SampledFrame]) -> list[SampledFrame]:
    """Frames in the order of time, each once: a slow picture is on screen at several times."""
    once: dict[float, SampledFrame] = {}
    for frame in frames:
        # Of two samples that show the same picture, one with a detection counts.
        if frame.time_s not in once or once[frame.time_s].hands is None:
            once[frame.time_s] = frame
    return [once[time_s] for time_s in sorted(once)]


def hand_row(clip: Footage, frames: list[SampledFrame], cuts: list[Transition]) -> HandRow:
    """A clip's row, from its frames in the order of time."""
    start_s, end_s = shots.longest_run(clip.start_s, clip.end_s, cuts)
    confidences = [[hand["confidence"] for hand in frame.hands or []] for frame in frames]
    return HandRow(
        clip_id=clip.clip_id,
        times_s=[frame.time_s for frame in frames],
        detector_ran=[frame.hands is not None for frame in frames],
        hand_counts=[sum(value >= CONFIDENT for value in values) for values in confidences],
        confidence=[max(values, default=0.0) for values in confidences],
        detections=[h for n, frame in enumerate(frames) for h in _numbered(frame.hands, n)],
        cuts_s=shots.change_times(cuts),
        shot_start_s=start_s,
        shot_end_s=end_s,
        **measure_columns([frame.measures for frame in frames]),
    )


def _numbered(hands: list[Hand] | None, frame: int) -> list[Hand]:
    return [Hand(**{**hand, "frame": frame}) for hand in hands or []]


@dataclass
class _OpenVideo:
    """A video, the hands detected in its frames and their measures: neighbouring clips share
    them."""

    video: SmallVideo
    stage: Hands
    detected: dict[float, list[Hand]] = field(default_factory=dict)
    measured: dict[float, FrameMeasures] = field(default_factory=dict)

    def hands(self, frame: SmallFrame) -> list[Hand]:
        """Hands in a frame; each clip numbers its frames itself."""
        if frame.time_s not in self.detected:
            _make_room(self.detected, DETECTIONS_KEPT)
            self.detected[frame.time_s] = detect(frame.picture_hwc, 0, self.stage.look)
        return self.detected[frame.time_s]

    def measures(self, frame: SmallFrame) -> FrameMeasures:
        """Measures of a frame."""
        if frame.time_s not in self.measured:
            _make_room(self.measured, MEASURES_KEPT)
            luma_hw = small_luma(frame.picture_hwc)
            self.measured[frame.time_s] = FrameMeasures.of(frame.picture_hwc, luma_hw)
        return self.measured[frame.time_s]


def _make_room(kept: dict[float, Any], most: int) -> None:
    """Drop the oldest entry where there are as many as may be kept."""
    if len(kept) >= most:
        del kept[next(iter(kept))]


_open: dict[tuple[Path, Hands], _OpenVideo] = {}


def open_video(path: Path, stage: Hands) -> _OpenVideo:
    """The video at path, its frames as small as the stage wants; the last one stays open."""
    if (path, stage) not in _open:
        for opened in _open.values():
            opened.video.close()
        _open.clear()
        _open[path, stage] = _OpenVideo(SmallVideo(path, stage.short_side), stage)
    return _open[path, stage]
