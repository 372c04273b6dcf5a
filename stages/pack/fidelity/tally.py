"""Errors of decoded pictures, summed over a sample: whole frames, hands, what is around hands."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.stages.tables.rows import Clip
from handloom.tokenize.measure.pixels import decibels, ssim

FrameHWC = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom, pixels


@dataclass(frozen=True)
class Pair:
    """A frame and what the tokenizer makes of it, both RGB uint8 [S, S, 3]; and its codes."""

    clip: Clip
    true: FrameHWC
    decoded: FrameHWC
    codes_ij: NDArray[np.uint16]


@dataclass
class Sums:
    """Errors of decoded pictures, summed over all their values (pixels x channels)."""

    pictures: int = 0
    values: int = 0
    error: int = 0
    """Sum of squared differences of the picture and its decoded codes."""
    floor: float = 0.0
    """The same for each picture's mean colour in place of the decoded codes."""
    ssim: float = 0.0
    floor_ssim: float = 0.0

    def add(self, true: FrameHWC, decoded: FrameHWC) -> None:
        """Count a picture [H, W, 3] of at least 11 pixels each way."""
        self.pictures += 1
        self.values += true.size
        self.error += squared_error(true, decoded)
        flat = np.broadcast_to(true.mean((0, 1)), true.shape)
        self.floor += float(np.square(true - flat).sum())
        self.ssim += ssim(true, decoded)
        self.floor_ssim += ssim(true, flat)

    def merge(self, other: "Sums") -> None:
        """Take in the sums of other pictures."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def gain_db(self) -> float:
        """PSNR over that of the mean colours; 0 where codes say nothing but a colour."""
        return decibels(self.error / self.values) - decibels(self.floor / self.values)

    def facts(self) -> dict[str, Any]:
        """PSNR (of the mean error) and mean SSIM, each with its floor.

        Rounded, so that the last bits of another machine's arithmetic change no manifest.
        """
        return {
            "psnr_db": round(decibels(self.error / self.values), 2),
            "mean_color_psnr_db": round(decibels(self.floor / self.values), 2),
            "ssim": round(self.ssim / self.pictures, 3),
            "mean_color_ssim": round(self.floor_ssim / self.pictures, 3),
        }


@dataclass
class Tally:
    """What is counted over the sample."""

    frames: Sums = field(default_factory=Sums)
    by_clip: dict[str, Sums] = field(default_factory=dict)
    hands: Sums = field(default_factory=Sums)
    around_error: int = 0
    """Squared error outside the hands, in the same frames."""
    around_values: int = 0
    codes: int = 0
    equal_codes: int = 0
    """Codes among `codes` that float32 gives as well; counted where codes are of less precision."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Errors by clip id."""

    def add_hands(self, pair: Pair, boxes: list[Box]) -> None:
        """Count the hands of a frame, and what is around them."""
        around = np.ones(pair.true.shape[:2], bool)
        for left, top, right, bottom in boxes:
            crop = np.s_[top:bottom, left:right]
            self.hands.add(pair.true[crop], pair.decoded[crop])
            around[crop] = False
        self.around_error += squared_error(pair.true[around], pair.decoded[around])
        self.around_values += 3 * int(around.sum())

    def ranked(self, clips: list[Clip]) -> list[dict[str, Any]]:
        """Id, bucket and gain of the clips that could be read, the worst first."""
        gains = {name: round(sums.gain_db, 2) for name, sums in self.by_clip.items()}
        return [
            {"clip_id": clip.clip_id, "bucket": clip.bucket, "gain_db": gains[clip.clip_id]}
            for clip in sorted(clips, key=lambda clip: (gains.get(clip.clip_id, 0), clip.clip_id))
            if clip.clip_id in gains
        ]

    def facts(self) -> dict[str, Any]:
        """What the manifest says; {} where no clip could be read."""
        if not self.by_clip:
            return {}
        found = {"clips": len(self.by_clip), "frames": self.frames.pictures} | self.frames.facts()
        if self.hands.pictures and self.around_values:
            around_db = round(decibels(self.around_error / self.around_values), 2)
            count = {"count": self.hands.pictures, "around_psnr_db": around_db}
            found["hands"] = count | self.hands.facts()
        if self.codes:
            found["equal_codes"] = round(self.equal_codes / self.codes, 4)
        return found


def squared_error(a: FrameHWC, b: FrameHWC) -> int:
    """Sum of squared differences, exact."""
    return int(np.square(a.astype(np.int64) - b).sum())
