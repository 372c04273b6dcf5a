"""The picture of predicted frames beside true ones.

Shapes: F frames, R rows and C columns of codes, H and W pixels.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from handloom.tokenize import vqgan

SIDE = 160  # pixels of a frame in the picture
MARGIN, LABEL, CAPTION = 8, 96, 26


@dataclass(frozen=True)
class Comparison:
    """A clip and what the model made of its caption and first frame; one view of it."""

    caption: str
    true_FRC: npt.NDArray[np.uint16]
    predicted_FRC: npt.NDArray[np.uint16]


def draw(comparisons: list[Comparison], decoder: vqgan.VQGAN, path: Path) -> None:
    """Write a PNG: per clip its caption, the true frames, and below them the predicted ones."""
    frames = len(comparisons[0].true_FRC)
    width = LABEL + frames * (SIDE + MARGIN)
    height = len(comparisons) * (CAPTION + 2 * (SIDE + MARGIN) + MARGIN)
    canvas = Image.new("RGB", (width, height), "white")
    for i, comparison in enumerate(comparisons):
        _draw_clip(canvas, i * height // len(comparisons), comparison, decoder)
    temporary = path.with_name(path.name + ".tmp")
    canvas.save(temporary, format="PNG")
    temporary.replace(path)


def _draw_clip(canvas: Image.Image, top: int, comparison: Comparison, decoder: vqgan.VQGAN) -> None:
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    caption = textwrap.shorten(comparison.caption, (canvas.width - MARGIN) // 8, placeholder=" …")
    pen.text((MARGIN, top + 6), caption, fill="black", font=font)
    rows = (
        ("true", "true", comparison.true_FRC),
        ("given", "predicted", comparison.predicted_FRC),
    )
    for row, (first, later, codes_FRC) in enumerate(rows):
        y = top + CAPTION + row * (SIDE + MARGIN)
        text = later if first == later else f"{first}, then\n{later}"
        pen.text((MARGIN, y + SIDE // 2 - 16), text, fill="black", font=font)
        for f, frame_HW3 in enumerate(decoder.decode(codes_FRC)):
            picture = Image.fromarray(frame_HW3).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            canvas.paste(picture, (LABEL + f * (SIDE + MARGIN), y))
