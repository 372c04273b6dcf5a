"""Clips that show a number, and captions that spell it, so that who belongs to whom can be read."""

import re
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from handloom.stages.tables.parts import bucket_of
from handloom.stages.tables.rows import Clip, clip_id

SIDE = 64  # pixels; 4 x 4 squares are 16 binary digits
PER_VIDEO = 500

ADJECTIVES, NOUNS, OTHER_NOUNS = (
    words.split()
    for words in (
        "red blue green yellow black white brown grey pink orange",
        "cup plate spoon knife bottle box towel brush hammer basket",
        "table shelf door window chair drawer tray board rack mat",
    )
)


def picture(number: int) -> NDArray[np.uint8]:
    """A number below 10,000 as black and white squares, uint8 [64, 64, 3]."""
    bits = [(number >> i) & 1 for i in range(16)]
    squares = np.array(bits, np.uint8).reshape(4, 4) * 255
    return np.repeat(np.kron(squares, np.ones((16, 16), np.uint8))[:, :, None], 3, axis=2)


def number_shown(frame_hwc: NDArray[np.uint8]) -> int:
    """The number in a picture of any size."""
    height, width = frame_hwc.shape[0] // 4, frame_hwc.shape[1] // 4
    bits = [
        frame_hwc[y * height : (y + 1) * height, x * width : (x + 1) * width].mean() > 128
        for y in range(4)
        for x in range(4)
    ]
    return sum(int(bit) << i for i, bit in enumerate(bits))


def caption_of(number: int) -> str:
    """A sentence that spells the last four digits."""
    a, b, c, d = (int(digit) for digit in f"{number % 10_000:04d}")
    return f"move the {ADJECTIVES[a]} {NOUNS[b]} to the {ADJECTIVES[c]} {OTHER_NOUNS[d]}"


def number_told(caption: str) -> int:
    """The number that a caption spells; -1 where it spells none."""
    found = re.fullmatch(r"move the (\w+) (\w+) to the (\w+) (\w+)", caption)
    if not found:
        return -1
    words = zip((ADJECTIVES, NOUNS, ADJECTIVES, OTHER_NOUNS), found.groups(), strict=True)
    return int("".join(str(known.index(word)) for known, word in words))


def write_videos(folder: Path, clips: int) -> None:
    """Videos of a picture each second; each second is a clip."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, clips, PER_VIDEO):
        with av.open(str(folder / f"{first:05d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=1, options={"crf": "18"})
            stream.width = stream.height = SIDE
            stream.pix_fmt = "yuv420p"
            for number in range(first, min(first + PER_VIDEO, clips)):
                frame = av.VideoFrame.from_ndarray(picture(number), "rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def clip(number: int, text: str = "#C C moves things", kind: str = "narration") -> Clip:
    """The clip that shows a number."""
    video_id = f"{number // PER_VIDEO * PER_VIDEO:05d}"
    start_s = float(number % PER_VIDEO)
    return Clip(
        clip_id=clip_id("numbers", video_id, start_s, start_s + 1), dataset="numbers", version="1",
        split="train", licence="none", bucket=bucket_of(video_id), unit=video_id,
        video_id=video_id, start_s=start_s, end_s=start_s + 1, text=text, text_kind=kind,
        media_path=f"{video_id}.mp4",
    )  # fmt: skip
