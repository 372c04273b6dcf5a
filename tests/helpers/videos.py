"""Videos that tell by their brightness which frame is shown."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_grey_video(
    path: Path, levels: list[int], fps: int, codec: str = "libx264", crf: str = ""
) -> None:
    """A video of 64 x 48 pixels whose frames have the given grey levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": crf} if crf else {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for i, grey in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey, np.uint8), "rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
