"""Columns of the `hands` table beside the hands: scores for `select`, and fingerprints."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from handloom.stages.duplicates.fingerprints import fingerprint
from handloom.stages.quality import frames as quality

FrameHWC = npt.NDArray[np.uint8]


def measure_columns(frames: Sequence[FrameHWC], lumas: Sequence[quality.LumaHW]) -> dict[str, Any]:
    """The columns of one clip.

    Args:
        frames: at least one, uint8 [H, W, 3] RGB of one size, ascending in time.
        lumas: `small_luma` of each.
    """
    each = [quality.measure_frame(luma) for luma in lumas]
    clip = quality.measure_clip(lumas)
    names = ("brightness", "contrast", "sharpness", "flat_share")
    return {
        **{name: [getattr(frame, name) for frame in each] for name in names},
        "change": clip.change,
        "picture_xyxy": list(clip.picture_xyxy),
        "bar_share": clip.bar_share,
        "stereo": clip.stereo,
        "stereo_score": clip.stereo_score,
        "fingerprints": b"".join(fingerprint(frame).tobytes() for frame in frames),
    }


EMPTY_COLUMNS: dict[str, Any] = {
    "brightness": [], "contrast": [], "sharpness": [], "flat_share": [], "change": 0.0,
    "picture_xyxy": [0.0, 0.0, 1.0, 1.0], "bar_share": 0.0, "stereo": "", "stereo_score": 0.0,
    "fingerprints": b"",
}  # fmt: skip
"""The same columns for a clip that could not be decoded."""
