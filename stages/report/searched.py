"""What the search for hands did in a clip: the frames it looked at and the hands it found."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from handloom.stages.hands.rows import Hand
from handloom.stages.tables.rows import Row

FRAMES_SHOWN = 24  # of a clip; of more that were searched, these are spread evenly


@dataclass(frozen=True, kw_only=True)
class SearchedRow(Row):
    """The columns of the `hands` table that the report shows. Lists are parallel to `times_s`."""

    times_s: list[float]
    detector_ran: list[bool]
    confidence: list[float]
    detections: list[Hand]
    shot_start_s: float
    shot_end_s: float


@dataclass(frozen=True)
class Search:
    """The search of one clip, as `select` counts it. Frames are numbers of `row.times_s`."""

    row: SearchedRow
    min_confidence: float
    """Hands of a lower confidence do not count."""

    @cached_property
    def frames(self) -> list[int]:
        """The frames that were searched for hands, ascending."""
        return [number for number, ran in enumerate(self.row.detector_ran) if ran]

    def is_inside(self, frame: int) -> bool:
        """Whether a frame is of the clip's longest shot; others do not count."""
        return self.row.shot_start_s <= self.row.times_s[frame] <= self.row.shot_end_s

    def is_hit(self, frame: int) -> bool:
        """Whether a searched frame counts as one that shows a hand."""
        return self.is_inside(frame) and self.row.confidence[frame] >= self.min_confidence

    def hands(self, frame: int) -> list[Hand]:
        """The hands detected in a frame."""
        return [hand for hand in self.row.detections if hand["frame"] == frame]

    def counts(self, hand: Hand) -> bool:
        """Whether a hand is confident enough to count."""
        return hand["confidence"] >= self.min_confidence

    def best(self, frames: Sequence[int]) -> int:
        """The frame that shows the clip best: the one with the most hands, within the shot.

        Of several the one nearest to the middle.
        """

        def rank(place: int) -> tuple[bool, int, int]:
            hands = self.hands(frames[place])
            count = sum(map(self.counts, hands))
            return self.is_inside(frames[place]), count, -abs(place - len(frames) // 2)

        return frames[max(range(len(frames)), key=rank)]

    @cached_property
    def shown(self) -> list[int]:
        """The frames to show: all that were searched, or FRAMES_SHOWN of them with the best one."""
        if len(self.frames) <= FRAMES_SHOWN:
            return self.frames
        places = np.linspace(0, len(self.frames) - 1, FRAMES_SHOWN).round().astype(int)
        spread, best = np.asarray(self.frames)[places], self.best(self.frames)
        spread[np.abs(spread - best).argmin()] = best
        return [int(frame) for frame in spread]

    def sentence(self) -> str:
        """Hits and looks: the frames with a hand among those searched, as `select` counts them."""
        looks = sum(map(self.is_inside, self.frames))
        said = f"hands in {sum(map(self.is_hit, self.frames))} of {looks} searched frames"
        if outside := len(self.frames) - looks:
            said += f", {outside} more outside the longest shot"
        if hidden := len(self.frames) - len(self.shown):
            said += f", {hidden} of them not shown"
        return said
