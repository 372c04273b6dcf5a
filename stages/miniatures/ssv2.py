"""A miniature Something-Something V2: short WebM files, templates, placeholders.

Labels describe what the clips show, in the words of the original's templates. It also has a row
without a file, a file without a row, a truncated file, a row with a placeholder too many, and
templates that are hard to parse: with a comma, with a capital `[Something]`, about the camera
instead of the hand.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.encode import VideoEncoding, write_file
from handloom.stages.miniatures.people import takes
from handloom.stages.miniatures.people.objects import KINDS
from handloom.stages.miniatures.people.takes import Take

FPS = 12  # as the original
HIGHEST_ID = 220_847
NAME = "something-something-v2"
VIDEOS = f"20bn-{NAME}"
FILES = ("labels.json", "train.json", "validation.json", "test.json", "test-answers.csv")
WIDTHS = {"wide": 427, "full": 320, "tall": 180}
SHAPES: tuple[takes.Shape, ...] = ("wide", "wide", "full", "wide", "tall")

Fault = Literal["", "missing", "truncated", "unlisted", "placeholders"]


@dataclass(frozen=True)
class Template:
    """A class of the original, and how it is rendered.

    Attributes:
        text: the template.
        class_id: number of the class, 0 to 173.
        verb: what the hand does.
        kinds: kinds of objects that it may do it with.
        words: placeholders; `{0}` is the object, `{1}` the one to the right of it.
        happens: what happens if there is no hand.
    """

    text: str
    class_id: int
    verb: str = ""
    kinds: tuple[str, ...] = tuple(KINDS)
    words: tuple[str, ...] = ("{0}",)
    happens: takes.Happening | None = None


TEMPLATES = (
    Template("Picking [something] up", 47, "pick"),
    Template("Pushing [something] from left to right", 93, "right"),
    Template("Pretending to pour [something] out of [something], but [something] is empty", 70,
             "tilt", ("cup", "bottle"), ("water", "{0}", "{0}")),
    Template("[Something] falling like a rock", 135, happens="falls"),
    Template("Putting [something] on a surface", 109, "put"),
    Template("Moving [something] away from the camera", 41, "push"),
    Template("Pushing [something] from right to left", 94, "left"),
    Template("Moving [something] closer to [something]", 42, "right", words=("{0}", "{1}")),
    Template("Letting [something] roll along a flat surface", 22, happens="rolls"),
    Template("Moving [something] towards the camera", 44, "pull"),
    Template("Turning the camera right while filming [something]", 167, words=("hills",),
             happens="turns"),
    Template("Moving [something] away from [something]", 40, "left", words=("{0}", "{1}")),
    Template("Pretending to turn [something] upside down", 84, "tilt"),
)  # fmt: skip


@dataclass(frozen=True)
class TemplateClip:
    """One file and its row in the label files, as far as its fault leaves them."""

    name: str
    template: Template
    take: Take
    split: Literal["train", "validation", "test"]
    fault: Fault = ""

    @property
    def row(self) -> dict[str, object]:
        """Row in the label file of its split; rows of the test split have no label."""
        if self.split == "test":
            return {"id": self.name}
        words = [word.format(*self.take.names) for word in self.template.words]
        label = self.template.text.replace("[Something]", "[something]")
        for word in words:  # each takes the first placeholder that is left
            label = label.replace("[something]", word, 1)
        more = ["table"] if self.fault == "placeholders" else []
        return {
            "id": self.name,
            "label": label.lower(),
            "template": self.template.text,
            "placeholders": words + more,
        }


@folder.miniature_writer("ssv2", VIDEOS, *(f"{NAME}-{name}" for name in FILES), version=1)
def write(out: Path, clips: int = 30, seed: int = 0) -> None:
    """Write a miniature Something-Something V2 of `clips` good clips, and some bad ones."""
    planned = plan(clips, seed)
    _write_labels(out, [clip for clip in planned if clip.fault != "unlisted"])
    folder.in_parallel(
        partial(_write_clip, out / VIDEOS / f"{clip.name}.webm", clip)
        for clip in planned
        if clip.fault != "missing"
    )


def plan(clips: int, seed: int) -> tuple[TemplateClip, ...]:
    """All clips: good ones for training and validation, two for test, one for each fault."""
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


def _clip(seed: int, index: int, name: str) -> TemplateClip:
    """The clip of an index, which decides the template; every fifth is for validation."""
    rng = np.random.default_rng((seed, index))
    template = TEMPLATES[index % len(TEMPLATES)]
    shape = SHAPES[index % len(SHAPES)]
    if template.happens:
        shape = "tall" if template.happens == "turns" else shape
        take = takes.empty_take(rng, template.happens, float(rng.integers(24, 40)) / 10, shape)
    else:
        take = _act_out(rng, template, shape)
    return TemplateClip(name, template, take, "validation" if index % 5 == 4 else "train")


def _act_out(rng: np.random.Generator, template: Template, shape: takes.Shape) -> Take:
    """A take of one action; templates with a second object need more room."""
    two = "{1}" in template.words
    return takes.hand_take(
        rng,
        [(template.verb, 0)],
        template.kinds,
        action_s=float(rng.integers(16, 30)) / 10,
        shape="full" if two and shape == "tall" else shape,
        beside=int(two),
    )


def _write_labels(out: Path, listed: Sequence[TemplateClip]) -> None:
    for split in ("train", "validation", "test"):
        rows = [json.dumps(clip.row) for clip in listed if clip.split == split]
        folder.write_text(out / f"{NAME}-{split}.json", "[\n" + ",\n".join(rows) + "\n]\n")
    labels = {_label(template): str(template.class_id) for template in TEMPLATES}
    folder.write_json(out / f"{NAME}-labels.json", dict(sorted(labels.items())))
    answers = [f"{clip.name};{_label(clip.template)}\n" for clip in listed if clip.split == "test"]
    folder.write_text(out / f"{NAME}-test-answers.csv", "".join(answers))


def _label(template: Template) -> str:
    """Name of a class: its template without the brackets."""
    return template.text.replace("[", "").replace("]", "")


def _write_clip(path: Path, clip: TemplateClip) -> None:
    size = (WIDTHS[clip.take.shape], 240)
    encoding = VideoEncoding("vp9", "webm", fps=Fraction(FPS), render_fps=FPS, size=size)
    fraction = Fraction(3, 5) if clip.fault == "truncated" else Fraction(1)
    write_file(path, takes.render(clip.take, FPS), encoding, fraction)
