"""Select: decide from stored numbers which clips are kept. Nothing is decoded here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from handloom.stages.base import Stage
from handloom.stages.records import Clip, HandScores, Row, SelectRow


@dataclass(frozen=True)
class Select(Stage):
    """Options of `select`."""

    name: ClassVar[str] = "select"
    row_type: ClassVar[type[Row]] = SelectRow
    reads: ClassVar[dict[str, type[Row]]] = {"hands": HandScores}
    gate: ClassVar[str] = "hands"
    light: ClassVar[bool] = True

    min_hand_share: float = 0.1
    """Keep a clip when at least this share of its sampled frames shows a hand."""
    dark_below: float = 0.04
    """A frame with less mean luma than this shows nothing, 0 to 1."""
    max_dark_share: float = 0.5
    """Reject a clip when more than this share of its frames is dark."""

    def __call__(self, clip: Clip, hands: HandScores) -> Iterator[SelectRow]:
        """Keep or reject one clip."""
        frames = len(hands.times_s)
        hand_share = sum(count > 0 for count in hands.hand_counts) / frames
        dark_share = sum(luma < self.dark_below for luma in hands.brightness) / frames
        reason = ""
        if dark_share > self.max_dark_share:
            reason = "dark"
        elif hand_share < self.min_hand_share:
            reason = "no_hands"
        yield SelectRow(
            clip_id=clip.clip_id,
            status="rejected" if reason else "ok",
            reason=reason,
            hand_share=hand_share,
            dark_share=dark_share,
        )

    def failed(self, error: str, clip: Clip, hands: HandScores) -> Iterator[SelectRow]:
        """A row without numbers."""
        yield SelectRow(
            clip_id=clip.clip_id, status="failed", error=error, hand_share=0.0, dark_share=0.0
        )
