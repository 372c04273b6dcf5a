"""Imagined frames beside the true ones, as videos and as one picture (as GR-2's Figs. 12 to 17).

    next frame   each frame imagined from the true ones before it
    all frames   each imagined from those imagined before: only the first is given

The truth is the decoded true codes; what the tokenizer itself loses is no fault of the model.

Shapes: n frames imagined, F = n + 1 with the one that is given, V views, R rows, C columns.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from handloom.tokenize.vqgan import VQGAN
from handloom.train.finetune.inputs import DeviceWindows, Inputs
from handloom.train.finetune.model import RobotModel
from handloom.train.finetune.windows.windows import WindowBatch
from handloom.train.generate import pictures
from handloom.train.generate.pictures import Comparison
from handloom.train.generate.quality import Frames, PredictedView
from handloom.train.policy.imagine import next_frames

NEXT, ALL = "next frame", "all frames"
HEADER, GAP = 44, 4  # pixels above and between the pictures of a video


@dataclass(frozen=True)
class ImaginedView:
    """One view of an episode, uint8 [F, H, W, 3] each; the first frame is the one given."""

    clip_id: str
    caption: str
    view: str
    true: Frames
    one: Frames
    """Imagined from the true ones before."""
    free: Frames
    """Imagined from imagined ones."""


def imagine(
    model: RobotModel,
    batch: WindowBatch,
    inputs: DeviceWindows,
    tokenizer: VQGAN,
    stride: int,
    frames: int,
) -> list[ImaginedView]:
    """Imagine an episode.

    Args:
        model: in evaluation mode.
        batch: all windows of the episode.
        inputs: the same, as the model takes them.
        tokenizer: whose codes they are.
        stride: steps between frames.
        frames: n, at most; fewer where the episode ends.

    Returns:
        For each view that the episode has; nothing where it ends before the first frame.
    """
    rows = _rows(batch, model.shape.history, stride, frames)
    if not rows:
        return []
    windows = [_window(inputs, row) for row in rows]
    given = batch.codes[rows[0], -2][None]
    parts = {
        "true": np.concatenate([given, batch.codes[rows, -1]]),
        "one": np.concatenate([given, *(next_frames(model, window) for window in windows)]),
        "free": np.concatenate([given, next_frames(model, windows[0], len(rows))]),
    }
    videos = {
        name: pictures.decode(codes_FVRC.swapaxes(0, 1), tokenizer)
        for name, codes_FVRC in parts.items()
    }
    return [
        ImaginedView(
            batch.clip_id[0], batch.caption[0], view, **{name: f[v] for name, f in videos.items()}
        )
        for v, view in enumerate(model.shape.views)
        if batch.visible[rows[0], -2, v]
    ]


def _rows(batch: WindowBatch, history: int, stride: int, frames: int) -> list[int]:
    """Windows a stride apart whose next frame there is, from where all history is seen if any."""
    row_of = {int(step): row for row, step in enumerate(batch.step)}
    starts = [(history - 1) * stride, int(batch.step[0])]
    for start in starts:
        rows: list[int] = []
        for i in range(frames):
            row = row_of.get(start + i * stride)
            if row is None or not batch.visible[row, -1].any():
                break
            rows.append(row)
        if rows:
            return rows
    return []


def _window(inputs: DeviceWindows, row: int) -> Inputs:
    """One window whose next frame is to be imagined in every view that is seen now."""
    window = inputs.part(slice(row, row + 1))
    visible_1FV = window.visible_BFV.clone()
    visible_1FV[:, -1] = visible_1FV[:, -2]
    return window._replace(
        visible_BFV=visible_1FV, all_visible=bool(visible_1FV.all()), masked=None
    )


def predicted_views(imagined: list[ImaginedView]) -> dict[str, list[PredictedView]]:
    """For `quality.scores`: the views take the place of datasets."""
    return {
        NEXT: [PredictedView(i.view, i.one[1:], i.true[:-1], i.true[1:], None) for i in imagined],
        ALL: [
            PredictedView(
                i.view, i.free[1:], np.repeat(i.true[:1], len(i.true) - 1, 0), i.true[1:], None
            )
            for i in imagined
        ],
    }


def write(imagined: list[ImaginedView], fps: float, out: Path) -> None:
    """Write pictures.png, and an mp4 and a gif of each view of each episode."""
    comparisons = []
    for one in imagined:
        words = f"{one.caption} ({one.view}, "
        comparisons += [
            Comparison(
                f"{words}each frame from the true ones before)",
                1,
                one.one,
                one.true,
                np.concatenate([one.true[:1], one.true[:-1]]),
            ),
            Comparison(
                f"{words}all from the first)",
                1,
                one.free,
                one.true,
                np.repeat(one.true[:1], len(one.true), 0),
            ),
        ]
        video = _beside(one)
        name = f"{one.clip_id}-{one.view}".replace("/", "_")
        pictures.write_mp4(video, fps, out / f"{name}.mp4")
        pictures.write_gif(video, fps, out / f"{name}.gif")
    pictures.draw(comparisons, out / "pictures.png")
    print(f"wrote {out / 'pictures.png'} and {len(imagined)} videos (.mp4, .gif)", flush=True)


def _beside(one: ImaginedView) -> Frames:
    """True, next frame and all frames side by side under the instruction; even sides."""
    columns = {"true": one.true, NEXT: one.one, ALL: one.free}
    side = max(pictures.SIDE, one.true.shape[1]) // 2 * 2
    header = _header(one.caption, list(columns), side)
    frames = []
    for f in range(len(one.true)):
        canvas = header.copy()
        for i, frames_FHW3 in enumerate(columns.values()):
            picture = Image.fromarray(frames_FHW3[f])
            picture = picture.resize((side, side), Image.Resampling.BICUBIC)
            canvas.paste(picture, (i * (side + GAP), HEADER))
        frames.append(np.asarray(canvas))
    video: npt.NDArray[np.uint8] = np.stack(frames)
    return video


def _header(caption: str, labels: list[str], side: int) -> Image.Image:
    width = len(labels) * (side + GAP) - GAP
    canvas = Image.new("RGB", (width, HEADER + side), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    pen.text((4, 3), textwrap.shorten(caption, width // 8, placeholder=" …"), "black", font)
    for i, label in enumerate(labels):
        pen.text((i * (side + GAP) + 4, 23), label, "#666", font)
    return canvas
