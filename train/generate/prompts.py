"""Prompts for a model to continue: clips of shards, or a picture.

Shapes: V views, f frames given, R rows, C columns.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handloom.errors import UserError, first_line
from handloom.tokenize.frames import center_square
from handloom.tokenize.shards import ShardDataset, read_manifest
from handloom.tokenize.shards.windows import ClipWindows
from handloom.tokenize.vqgan import VQGAN
from handloom.train.generate.config import GenerateConfig
from handloom.train.model.shape import Shape
from handloom.train.model.text import TextEncoder
from handloom.train.pretrain import data
from handloom.train.trainer.options import place_and_weight

PICTURE_FPS = 2.0  # of the video made from a picture, which has no rate of its own
ROWS_AT_A_TIME = 10_000


@dataclass(frozen=True)
class Prompt:
    """One thing to continue."""

    name: str
    """Stem of the files to write."""
    text: str
    dataset: str
    given_VfRC: NDArray[np.uint16]
    fps: float
    """Frames a second of the result."""
    sample: dict[str, Any] | None = None
    """The clip, as `ShardDataset` gives it; None for a picture."""


def find(
    config: GenerateConfig,
    shape: Shape,
    trained_on: dict[str, Any],
    tokenizer: VQGAN,
    encoder: TextEncoder,
    wanted: data.Wanted = data.WANTED,
) -> list[Prompt]:
    """Find what the configuration names, and check that it fits the model.

    Args:
        config: of the command.
        shape: of the model.
        trained_on: facts of the tokenizer whose codes the model was trained on.
        tokenizer: that one, loaded.
        encoder: the model's.
        wanted: windows, as the model was trained on.

    Raises:
        UserError: an unknown clip, an unreadable picture, codes of another tokenizer or shape, or
            a text that the encoder would cut.
    """
    if config.text is not None:
        _refuse_long(config.text, encoder)
    if config.image:
        return [_from_pictures(config, shape, tokenizer)]
    for folder in config.shards:
        _refuse_other_codes(place_and_weight(folder)[0], trained_on)
    if config.clip is None:
        samples = _held_out(config, wanted)
    else:
        samples = [_clip(config, config.clip, wanted)]
    return [_from_sample(config, shape, sample) for sample in samples]


def _from_sample(config: GenerateConfig, shape: Shape, sample: dict[str, Any]) -> Prompt:
    views, frames, rows, cols = sample["tokens"].shape
    if (views, rows, cols) != (shape.views, shape.rows, shape.cols):
        raise UserError(
            f"clip {sample['clip_id']} has {views} views of {rows} x {cols} codes, and the model "
            f"was trained on {shape.views} of {shape.rows} x {shape.cols}: name other --shards."
        )
    if config.given > frames:
        raise UserError(
            f"--given {config.given} is more than the {frames} frames that a clip has: lower it."
        )
    times_s = sample.get("frame_times_s", [])
    lasts_s = times_s[-1] - times_s[0] if len(times_s) > 1 else 0.0
    return Prompt(
        name=sample["clip_id"],
        text=config.text or sample["caption"],
        dataset=str(sample.get("dataset", "unnamed")),
        given_VfRC=sample["tokens"][:, : config.given],
        fps=(len(times_s) - 1) / lasts_s if lasts_s > 0 else PICTURE_FPS,
        sample=sample,
    )


def _from_pictures(config: GenerateConfig, shape: Shape, tokenizer: VQGAN) -> Prompt:
    if len(config.image) != shape.views:
        raise UserError(
            f"{len(config.image)} pictures are given with --image, and the model was trained on "
            f"{shape.views} views at a time: give one picture of each."
        )
    frames_VHW3 = np.stack([_read(path, tokenizer.resolution) for path in config.image])
    given_VfRC = tokenizer.encode(frames_VHW3)[:, None]
    return Prompt(config.image[0].stem, config.text or "", "", given_VfRC, PICTURE_FPS)


def _read(path: Path, side: int) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return center_square(np.asarray(image.convert("RGB")), side)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"--image {path} is not a picture that can be read ({first_line(error)}): "
            "name a JPEG or PNG file."
        ) from error


def _refuse_long(words: str, encoder: TextEncoder) -> None:
    found = len(encoder.tokenize(words))
    if found > encoder.words:
        raise UserError(
            f"--text has {found} tokens, start and end included, and the model was trained to read "
            f"{encoder.words}: shorten it."
        )


def _refuse_other_codes(folder: str, trained_on: dict[str, Any]) -> None:
    found = read_manifest(folder)["tokenizer"]
    if found["weights_sha256"] != trained_on["weights_sha256"]:
        raise UserError(
            f"{folder} holds codes of the tokenizer {found['name']} "
            f"({found['weights_sha256'][:12]}), and the model was trained on those of "
            f"{trained_on['name']} ({trained_on['weights_sha256'][:12]}): name shards of that one."
        )


def _held_out(config: GenerateConfig, wanted: data.Wanted) -> list[dict[str, Any]]:
    """The first held-out clips, the folders in turn."""
    clips = data.open_split(config.shards, "val", 1, wanted)
    return [clips[i] for i in range(min(len(clips), config.clips or 0))]


def _window(clips: ShardDataset, clip: int, wanted: data.Wanted) -> dict[str, Any]:
    windows = ClipWindows(clips, wanted.cut([clips]))
    numbers = windows.of_clip(clip)
    if not numbers:
        raise UserError(
            f"clip {clips[clip]['clip_id']} is too short for the {windows.cut.frames} frames that "
            "the model was trained on, or lacks its views: name another one with --clip."
        )
    return windows[numbers.start]


def _clip(config: GenerateConfig, clip_id: str, wanted: data.Wanted) -> dict[str, Any]:
    """A clip, or its first window where the model was trained on windows."""
    known: list[str] = []
    for text in config.shards:
        folder, _ = place_and_weight(text)
        for split in read_manifest(folder)["splits"]:
            clips = ShardDataset(folder, split)
            for start in range(0, len(clips), ROWS_AT_A_TIME):
                rows = np.arange(start, min(start + ROWS_AT_A_TIME, len(clips)))
                ids = clips.find(rows, ("clip_id",)).columns["clip_id"].tolist()
                if clip_id in ids:
                    number = start + ids.index(clip_id)
                    return (
                        clips[number] if wanted == data.WANTED else _window(clips, number, wanted)
                    )
                known += ids[: ROWS_AT_A_TIME if start == 0 else 0]
    close = difflib.get_close_matches(clip_id, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(
        f"no clip {clip_id!r} in {' + '.join(config.shards)}: {hint}`handloom inspect "
        f"{config.shards[0]}` lists some."
    )
