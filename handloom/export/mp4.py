"""H.264 video in MP4, encoded once, frame after frame.

There are no B-frames, so that a file begins at 0 without an edit list and readers that ignore these
count its frames right. One thread a file, so that the same frames give the same bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import IO, Any

import av
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from handloom.errors import MediaError
from handloom.stages.media.display import FrameHWC

CODEC, PIXELS = "h264", "yuv420p"
OPTIONS = {"preset": "veryfast", "bf": "0", "forced-idr": "1"}
BT601 = {"color_primaries": 6, "color_trc": 6, "colorspace": 6}
"""SMPTE 170M, which readers take untagged video for: those that ignore the tag are right too."""


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded.

    Attributes:
        fps: frames a second.
        crf: constant rate factor, 0 to 51.
        key_every: frames from one key frame to the next; 2 makes any frame cheap to reach.
    """

    fps: Fraction
    crf: int
    key_every: int


class Mp4Writer:
    """An open MP4 of frames of one size.

    Args:
        file: where it goes; must be seekable.
        encoding: how.
        name: of the video, for messages.
    """

    def __init__(self, file: IO[bytes], encoding: Encoding, name: str) -> None:
        self.encoding, self.name = encoding, name
        self.count = 0
        self.size = (0, 0)
        """Width and height; of pictures with an odd one the last column or row is left out."""
        self._file: Any = av.open(file, "w", format="mp4")
        self._stream: Any = None
        self._colour = VideoReformatter()

    def add(self, frame_hwc: FrameHWC, starts: bool = False) -> None:
        """Encode a frame, RGB uint8 [H, W, 3].

        Args:
            frame_hwc: of the size of those before it.
            starts: whether it is to be a key frame, from which on all can be decoded.

        Raises:
            MediaError: it is of another size, or only a pixel wide or high.
        """
        even_hwc = frame_hwc[: frame_hwc.shape[0] // 2 * 2, : frame_hwc.shape[1] // 2 * 2]
        size = even_hwc.shape[1], even_hwc.shape[0]
        if self._stream is None:
            self._stream = self._opened(size)
        if size != self.size:
            raise MediaError(
                f"{self.name}: a picture of {size[0]} x {size[1]}, expected "
                f"{self.size[0]} x {self.size[1]} like those before it"
            )
        frame = self._colour.reformat(
            av.VideoFrame.from_ndarray(even_hwc, "rgb24"),
            format=PIXELS,
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            threads=1,  # more of them gave 5 different files of 1,200 under load
        )
        frame.pts, frame.time_base = self.count, 1 / self.encoding.fps
        frame.pict_type = PictureType.I if starts else PictureType.NONE
        self._file.mux(self._stream.encode(frame))
        self.count += 1

    def close(self) -> None:
        """Encode what is still waiting, and end the file."""
        if self._stream is not None:
            self._file.mux(self._stream.encode(None))
        self._file.close()

    def _opened(self, size: tuple[int, int]) -> Any:
        if not all(size):
            raise MediaError(f"{self.name}: a picture of a single row or column of pixels")
        options = OPTIONS | {"crf": str(self.encoding.crf), "g": str(self.encoding.key_every)}
        stream = self._file.add_stream("libx264", rate=self.encoding.fps, options=options)
        stream.width, stream.height = self.size = size
        stream.pix_fmt, stream.thread_count = PIXELS, 1
        stream.codec_context.time_base = 1 / self.encoding.fps
        stream.codec_context.color_range = ColorRange.MPEG
        for name, value in BT601.items():
            setattr(stream.codec_context, name, value)
        return stream


def mp4_bytes(frames: Iterable[FrameHWC], encoding: Encoding, name: str) -> bytes:
    """A whole MP4 of some frames, at least one.

    Raises:
        MediaError: as of `Mp4Writer.add`, or those of the frames.
    """
    held = BytesIO()
    writer = Mp4Writer(held, encoding, name)
    for frame_hwc in frames:
        writer.add(frame_hwc)
    writer.close()
    return held.getvalue()
