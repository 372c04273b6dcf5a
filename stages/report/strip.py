"""Pictures of a clip with the hands that were detected, and a strip of the frames searched.

A box's colour says whether the hand counts; a label's whether the frame does.
"""

import base64
import html
import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from handloom.stages.hands.rows import Hand
from handloom.stages.media.clip_frames import Framing
from handloom.stages.report.searched import Search

FrameHWC = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

CONFIRMED, LONE, DOUBTFUL = (60, 220, 90), (255, 165, 0), (255, 60, 150)
PAPER = (250, 250, 248)  # the page's background
HIT, MISS, OUTSIDE = (30, 120, 50), (60, 60, 60), (150, 150, 150)
THUMBNAIL_PX = 160  # height of a clip's picture
TILE_PX, LABEL_PX, GAP_PX = 90, 24, 4  # heights of a strip's frames and of their times; between
WIDTH_PX = 4 * (TILE_PX * 16 // 9 + GAP_PX)  # of a strip: four landscape frames
QUALITY = 60  # of a strip's JPEG, for a page of hundreds


def legend() -> str:
    """What the colours mean, as HTML."""
    keys = (
        ("border:3px solid", CONFIRMED, "hand that counts: several frames or searches show it"),
        ("border:3px solid", LONE, "hand that counts, but one search of one frame alone shows it"),
        ("border:3px solid", DOUBTFUL, "doubtful hand: its confidence is too low to count"),
        ("background:", HIT, "frame with a hand that counts"),
        ("background:", MISS, "frame without one"),
        ("background:", OUTSIDE, "frame outside the longest shot, which does not count"),
    )
    items = [
        f'<li><span style="{style} rgb{colour}"></span>{html.escape(words)}</li>'
        for style, colour, words in keys
    ]
    return (
        "<p>Folded below a clip's picture are the frames that were searched for hands, with times "
        f"in the video in seconds.</p><ul class=legend>{''.join(items)}</ul>"
    )


def shrunk(frame_hwc: FrameHWC, height: int = THUMBNAIL_PX) -> Image.Image:
    """A frame, at most so many pixels high."""
    picture = Image.fromarray(frame_hwc)
    picture.thumbnail((10_000, height), reducing_gap=2.0)  # the gap makes it fast
    return picture


def jpeg(frame_hwc: FrameHWC, height: int) -> str:
    """An `img` element of a frame, at most so many pixels high."""
    return image(shrunk(frame_hwc, height))


def pictures(search: Search, small: Mapping[int, Image.Image], framing: Framing) -> str:
    """A clip's best frame and the strip of those searched, as HTML.

    Args:
        search: of the clip.
        small: thumbnails by frame, at least one; those that could not be read are missing.
        framing: the part of the frames that they show.
    """
    best = search.best(list(small))
    shown = _strip(search, small, framing)
    return (
        f"{image(_boxed(search, best, small[best], framing))}"
        f"<details><summary>{len(search.shown)} searched frames</summary>{shown}</details>"
    )


def image(picture: Image.Image, words: str = "", quality: int = 80, style: str = "") -> str:
    """An `img` element that holds a picture as a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    data = base64.b64encode(buffer.getvalue()).decode()
    styled = f' style="{style}"' if style else ""
    return f'<img alt="{html.escape(words)}"{styled} src="data:image/jpeg;base64,{data}">'


def in_picture(box_xyxy: list[float], framing: Framing) -> Box:
    """A box relative to the frame as one relative to the picture without bars."""
    left, top, right, bottom = framing.picture_xyxy
    x0, y0, x1, y1 = box_xyxy
    width, height = right - left, bottom - top
    return (x0 - left) / width, (y0 - top) / height, (x1 - left) / width, (y1 - top) / height


def colour_of(search: Search, hand: Hand) -> Colour:
    """The colour of a hand's box."""
    if not search.counts(hand):
        return DOUBTFUL
    return CONFIRMED if hand["confidence"] >= 1 else LONE


def _boxed(
    search: Search, frame: int, picture: Image.Image, framing: Framing, width: int = 3
) -> Image.Image:
    """A frame's picture with its hands, those that count on top."""
    picture = picture.copy()
    pen, (right, bottom) = ImageDraw.Draw(picture), picture.size
    for hand in sorted(search.hands(frame), key=lambda hand: hand["confidence"]):
        x0, y0, x1, y1 = in_picture(hand["box_xyxy"], framing)
        box = (x0 * right, y0 * bottom, x1 * right, y1 * bottom)
        pen.rectangle(box, outline=colour_of(search, hand), width=width)
    return picture


def _strip(search: Search, small: Mapping[int, Image.Image], framing: Framing) -> str:
    """All frames to show as one picture, grey where one is missing."""
    full_width, full_height = next(iter(small.values())).size
    height = min(TILE_PX, full_height)
    width = max(1, full_width * height // full_height)
    columns = max(1, min(WIDTH_PX // (width + GAP_PX), len(search.shown)))
    rows, step = -(-len(search.shown) // columns), height + LABEL_PX + GAP_PX
    sheet = Image.new("RGB", (columns * (width + GAP_PX), rows * step), PAPER)
    for place, frame in enumerate(search.shown):
        x, y = place % columns * (width + GAP_PX), place // columns * step
        tile = Image.new("RGB", (width, height), "gray")
        if frame in small:
            tile = _boxed(search, frame, small[frame].resize((width, height)), framing, width=2)
        sheet.paste(tile, (x, y))
        sheet.paste(_label(search, frame, width), (x, y + height))
    times = ", ".join(f"{search.row.times_s[frame]:.2f}" for frame in search.shown)
    share = min(100, round(100 * sheet.width / WIDTH_PX))  # labels are equally large in all cards
    return image(sheet, f"searched at {times} s", QUALITY, f"width:{share}%")


def _label(search: Search, frame: int, width: int) -> Image.Image:
    """A frame's time, on the colour of what was found."""
    colour = OUTSIDE
    if search.is_inside(frame):
        colour = HIT if search.is_hit(frame) else MISS
    label = Image.new("RGB", (width, LABEL_PX), colour)
    words, font = f"{search.row.times_s[frame]:.2f}", ImageFont.load_default(19)
    place = (width / 2, LABEL_PX / 2)
    ImageDraw.Draw(label).text(place, words, "white", font, anchor="mm")
    return label
