"""Writes a miniature Something-Something V2: short WebM files, templates, placeholders.

What is said of a clip is what it shows, in the words of the original's templates. With it come a
row without a file, a file without a row, a file that was cut off, one row with a placeholder too
many, and the templates that are hard to read: with a comma, with a capital `[Something]`, about the
camera instead of the hand.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.encode import Format, write_file
from handloom.stages.miniatures.people import takes
from handloom.stages.miniatures.people.objects import KINDS
from handloom.stages.miniatures.people.takes import Take

VERSION = 1  # raise it whenever the same arguments give other bytes
FPS = 12  # the original's
HIGHEST_ID = 220_847
NAME = "something-something-v2"
VIDEOS = f"20bn-{NAME}"
FILES = ("labels.json", "train.json", "validation.json", "test.json", "test-answers.csv")
WIDTHS = {"wide": 427, "full": 320, "tall": 180}
SHAPES: tuple[takes.Shape, ...] = ("wide", "wide", "full", "wide", "tall")

Fault = Literal["", "missing", "truncated", "unlisted", "placeholders"]


@dataclass(frozen=True)
class Shown:
    """What a clip can show: a class of the original, and how it is acted out.

    Attributes:
        class_id: of the original's 174, counted from 0.
        verb: what the hand does.
        kinds: what it does it with.
        words: placeholders; `{0}` is the thing, `{1}` the one to the right of it.
        happens: what is seen where there is no hand.
    """

    template: str
    class_id: int
    verb: str = ""
    kinds: tuple[str, ...] = tuple(KINDS)
    words: tuple[str, ...] = ("{0}",)
    happens: takes.Happening | None = None


SHOWN = (
    Shown("Picking [something] up", 47, "pick"),
    Shown("Pushing [something] from left to right", 93, "right"),
    Shown("Pretending to pour [something] out of [something], but [something] is empty", 70, "tilt",
          ("cup", "bottle"), ("water", "{0}", "{0}")),
    Shown("[Something] falling like a rock", 135, happens="falls"),
    Shown("Putting [something] on a surface", 109, "put"),
    Shown("Moving [something] away from the camera", 41, "push"),
    Shown("Pushing [something] from right to left", 94, "left"),
    Shown("Moving [something] closer to [something]", 42, "right", words=("{0}", "{1}")),
    Shown("Letting [something] roll along a flat surface", 22, happens="rolls"),
    Shown("Moving [something] towards the camera", 44, "pull"),
    Shown("Turning the camera right while filming [something]", 167, words=("hills",),
          happens="turns"),
    Shown("Moving [something] away from [something]", 40, "left", words=("{0}", "{1}")),
    Shown("Pretending to turn [something] upside down", 84, "tilt"),
)  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """One file and its row in the annotations, or what its fault leaves of them."""

    name: str
    shown: Shown
    take: Take
    split: Literal["train", "validation", "test"]
    fault: Fault = ""

    @property
    def row(self) -> dict[str, object]:
        """Entry in the annotations of its split; the test split's has no label."""
        if self.split == "test":
            return {"id": self.name}
        words = [word.format(*self.take.names) for word in self.shown.words]
        label = self.shown.template.replace("[Something]", "[something]")
        for word in words:
            label = label.replace("[something]", word, 1)
        more = ["table"] if self.fault == "placeholders" else []
        return {
            "id": self.name,
            "label": label.lower(),
            "template": self.shown.template,
            "placeholders": words + more,
        }


def write(out: Path, clips: int = 30, seed: int = 0) -> None:
    """Write a miniature Something-Something V2 of `clips` good clips, and some dirt, below `out`.

    The same arguments give the same bytes. A finished folder is left alone, any other miniature is
    written anew. Raises UserError where `out` holds a dataset that is not a miniature.
    """
    parts = (VIDEOS, *(f"{NAME}-{name}" for name in FILES))
    settings = {"clips": clips, "seed": seed, "version": VERSION}
    folder.Folder(out, "ssv2", parts, settings).fill(lambda: _write(out, plan(clips, seed)))


def plan(clips: int, seed: int) -> tuple[Clip, ...]:
    """All clips: `clips` good ones to train and validate on, two for test, one for each fault."""
    faults: tuple[Fault, ...] = ("missing", "truncated", "unlisted", "placeholders")
    count = clips + 2 + len(faults)
    numbers = np.random.default_rng(seed).choice(HIGHEST_ID, count, replace=False)
    names = [str(number + 1) for number in numbers]
    good = [_clip(seed, i, names[i]) for i in range(clips)]
    test = [replace(_clip(seed, i, names[i]), split="test") for i in range(clips, clips + 2)]
    odd = [
        replace(_clip(seed, i, names[i]), split="train", fault=fault)
        for i, fault in enumerate(faults, clips + 2)
    ]
    return (*good, *test, *odd)


def _clip(seed: int, index: int, name: str) -> Clip:
    """What a clip shows goes by its index; every fifth is for validation."""
    rng = np.random.default_rng((seed, index))
    shown = SHOWN[index % len(SHOWN)]
    shape = SHAPES[index % len(SHAPES)]
    if shown.happens:
        shape = "tall" if shown.happens == "turns" else shape
        take = takes.nobody(rng, shown.happens, float(rng.integers(24, 40)) / 10, shape)
    else:
        take = _act_out(rng, shown, shape)
    return Clip(name, shown, take, "validation" if index % 5 == 4 else "train")


def _act_out(rng: np.random.Generator, shown: Shown, shape: takes.Shape) -> Take:
    """One action; what it brings the thing closer to, or further away from, needs more room."""
    two = "{1}" in shown.words
    return takes.hands(
        rng,
        [(shown.verb, 0)],
        shown.kinds,
        action_s=float(rng.integers(16, 30)) / 10,
        shape="full" if two and shape == "tall" else shape,
        beside=int(two),
    )


def _write(out: Path, clips: Iterable[Clip]) -> None:
    clips = list(clips)
    listed = [clip for clip in clips if clip.fault != "unlisted"]
    for split in ("train", "validation", "test"):
        rows = [json.dumps(clip.row) for clip in listed if clip.split == split]
        folder.write_text(out / f"{NAME}-{split}.json", "[\n" + ",\n".join(rows) + "\n]\n")
    labels = {_label(shown): str(shown.class_id) for shown in SHOWN}
    folder.write_json(out / f"{NAME}-labels.json", dict(sorted(labels.items())))
    answers = [f"{clip.name};{_label(clip.shown)}\n" for clip in listed if clip.split == "test"]
    folder.write_text(out / f"{NAME}-test-answers.csv", "".join(answers))
    folder.in_parallel(
        partial(_film, out / VIDEOS / f"{clip.name}.webm", clip)
        for clip in clips
        if clip.fault != "missing"
    )


def _label(shown: Shown) -> str:
    """Name of the class: the template without its brackets."""
    return shown.template.replace("[", "").replace("]", "")


def _film(path: Path, clip: Clip) -> None:
    size = (WIDTHS[clip.take.shape], 240)
    form = Format("vp9", "webm", fps=Fraction(FPS), render_fps=FPS, size=size)
    kept = Fraction(3, 5) if clip.fault == "truncated" else Fraction(1)
    write_file(path, takes.frames(clip.take, FPS), form, kept)
