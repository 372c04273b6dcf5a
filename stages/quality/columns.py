"""Columns of the `hands` table beside the hands: scores for `select`, and fingerprints."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from handloom.stages.duplicates.fingerprints import fingerprint
from handloom.stages.quality import frames as quality

FrameHWC = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class FrameMeasures:
    """What is measured of one frame."""

    luma_hw: quality.LumaHW
    """`small_luma` of the frame."""
    scores: quality.FrameQuality
    fingerprint: bytes

    @classmethod
    def of(cls, frame_hwc: FrameHWC, luma_hw: quality.LumaHW) -> "FrameMeasures":
        """Measures of a frame, uint8 [H, W, 3] RGB, and its `small_luma`."""
        return cls(luma_hw, quality.measure_frame(luma_hw), fingerprint(frame_hwc).tobytes())


def measure_columns(frames: Sequence[FrameMeasures]) -> dict[str, Any]:
    """The columns of one clip.

    Args:
        frames: at least one, of pictures of one size, ascending in time.
    """
    clip = quality.measure_clip([frame.luma_hw for frame in frames])
    names = ("brightness", "contrast", "sharpness", "flat_share")
    return {
        **{name: [getattr(frame.scores, name) for frame in frames] for name in names},
        "change": clip.change,
        "picture_xyxy": list(clip.picture_xyxy),
        "bar_share": clip.bar_share,
        "stereo": clip.stereo,
        "stereo_score": clip.stereo_score,
        "fingerprints": b"".join(frame.fingerprint for frame in frames),
    }


EMPTY_COLUMNS: dict[str, Any] = {
    "brightness": [], "contrast": [], "sharpness": [], "flat_share": [], "change": 0.0,
    "picture_xyxy": [0.0, 0.0, 1.0, 1.0], "bar_share": 0.0, "stereo": "", "stereo_score": 0.0,
    "fingerprints": b"",
}  # fmt: skip
"""The same columns for a clip that could not be decoded."""
