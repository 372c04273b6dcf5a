"""Pictures and videos of what a model predicts.

Shapes: V views, F frames, R rows and C columns of codes, H and W pixels.
"""

import textwrap
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from handloom.errors import UserError
from handloom.files import whole
from handloom.tokenize import vqgan

SIDE = 160  # pixels of a frame in the picture
MARGIN, LABEL, CAPTION = 8, 96, 26
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Comparison:
    """One view of a clip and what the model made of its caption and its first frames."""

    caption: str
    given: int
    """Frames that the model was given; `predicted` begins with them."""
    predicted_FHW3: Frames
    true_FHW3: Frames | None
    """By their codes. None where nobody knows how it went on; may have another number of frames."""
    copied_FHW3: Frames | None = None
    """What copying the last frame that was known would have said."""
    source_FHW3: Frames | None = None
    """The frames that were encoded, where the videos are at hand."""

    def rows(self) -> list[tuple[str, Frames]]:
        """Frames to show below each other, with a label each."""
        count = len(self.predicted_FHW3)
        found = [
            ("frames", self.source_FHW3),
            ("true,\nby its codes", self.true_FHW3),
            (f"given {self.given},\nthen\npredicted", self.predicted_FHW3),
            ("copied", self.copied_FHW3),
        ]
        return [(label, frames[:count]) for label, frames in found if frames is not None]


def load_tokenizer(
    facts: dict[str, Any], model: str | None = None, device: str = "cpu", threads: int = 1
) -> vqgan.VQGAN:
    """Load the tokenizer that codes were made with.

    Args:
        facts: of the tokenizer, as a manifest or an export holds them.
        model: folder or hub id; by default that recorded in `facts`.
        device: a torch device.
        threads: as for `vqgan.load`.

    Raises:
        UserError: it is not there, or is another one.
    """
    place = model or facts.get("model", "bundled")
    loaded = vqgan.load(place, device, threads, facts.get("input_range"), facts.get("resolution"))
    if loaded.weights_sha256 != facts["weights_sha256"]:
        raise UserError(
            f"{place} holds the tokenizer {loaded.name} ({loaded.weights_sha256[:12]}), and these "
            f"codes are of {facts['name']} ({facts['weights_sha256'][:12]}): name the folder of "
            "that one with --tokenizer."
        )
    return loaded


def decode(codes_VFRC: NDArray[np.uint16], tokenizer: vqgan.VQGAN) -> Frames:
    """Frames uint8 [V, F, H, W, 3] of a clip."""
    frames_nHW3 = tokenizer.decode(
        np.ascontiguousarray(codes_VFRC.reshape(-1, *codes_VFRC.shape[2:]))
    )
    return frames_nHW3.reshape(*codes_VFRC.shape[:2], *frames_nHW3.shape[1:])


def draw(comparisons: list[Comparison], path: Path) -> None:
    """Write a PNG: per clip its caption, and below it the rows of its frames."""
    frames = max(len(one.predicted_FHW3) for one in comparisons)
    tops = np.cumsum([0, *(_height(one) for one in comparisons)]).tolist()
    canvas = Image.new("RGB", (LABEL + frames * (SIDE + MARGIN), tops[-1]), "white")
    for top, one in zip(tops[:-1], comparisons, strict=True):
        _draw_clip(canvas, top, one)
    with whole(path) as temporary:
        canvas.save(temporary, format="PNG")


def _height(one: Comparison) -> int:
    return CAPTION + len(one.rows()) * (SIDE + MARGIN) + MARGIN


def _draw_clip(canvas: Image.Image, top: int, one: Comparison) -> None:
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    caption = textwrap.shorten(one.caption, (canvas.width - MARGIN) // 8, placeholder=" …")
    pen.text((MARGIN, top + 6), caption, fill="black", font=font)
    for row, (label, frames_FHW3) in enumerate(one.rows()):
        y = top + CAPTION + row * (SIDE + MARGIN)
        pen.text((MARGIN, y + SIDE // 2 - 24), label, fill="black", font=font)
        for f, frame_HW3 in enumerate(frames_FHW3):
            picture = Image.fromarray(frame_HW3).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            canvas.paste(picture, (LABEL + f * (SIDE + MARGIN), y))


def write_gif(video_FHW3: Frames, fps: float, path: Path) -> None:
    """Write an animation that repeats for ever."""
    first, *others = [Image.fromarray(frame) for frame in video_FHW3]
    each_ms = max(20, round(1000 / fps))  # browsers slow down what is faster
    options: dict[str, Any] = {"append_images": others, "duration": each_ms, "loop": 0}
    with whole(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, **options)


def write_mp4(video_FHW3: Frames, fps: float, path: Path) -> None:
    """Write an H.264 video that browsers play; sides have to be even."""
    import av

    with whole(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = video_FHW3.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "12"}
        for picture_HW3 in video_FHW3:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HW3, format="rgb24")))
        container.mux(stream.encode(None))
