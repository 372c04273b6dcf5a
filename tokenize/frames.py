"""The one rule by which a video frame becomes the square picture that the image tokenizer reads.

The pipeline, the VQGAN trainer and inference all call `center_square`: a tokenizer trained on
one resize rule and fed by another gives other codes for the same picture.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RESIZE_RULE: str = "center_crop_square+pil_bicubic"
"""Recorded in shard manifests beside the tokenizer; change it when `center_square` changes."""


def center_square(frame_hwc: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Cut the centred square out of a frame and resize it with Pillow's bicubic filter.

    Pillow's filter widens with the reduction factor (it is antialiased), unlike the bicubic of
    OpenCV or of `torch.nn.functional.interpolate` without `antialias`.

    Args:
        frame_hwc: RGB, uint8 [H, W, 3]; H and W may differ. An odd surplus loses its extra row or
            column at the bottom or the right.
        size: side of the result in pixels.

    Returns:
        uint8 [size, size, 3], a fresh contiguous array.

    Raises:
        ValueError: the frame is not uint8 [H, W, 3].
    """
    if frame_hwc.dtype != np.uint8 or frame_hwc.ndim != 3 or frame_hwc.shape[2] != 3:
        raise ValueError(
            f"center_square wants a uint8 [H, W, 3] frame, got {frame_hwc.dtype} {frame_hwc.shape}"
        )
    height, width = frame_hwc.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square: NDArray[Any] = frame_hwc[top : top + side, left : left + side]
    if side == size:
        return np.array(square)  # a copy even here, so that callers may write into the result
    picture = Image.fromarray(np.ascontiguousarray(square))
    return np.array(picture.resize((size, size), Image.Resampling.BICUBIC))
