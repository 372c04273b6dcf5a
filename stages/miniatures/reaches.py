"""Videos of hands that touch a block of a colour, in the layout of Something-Something V2.

The same things are done on the same kind of table as in the tabletop's `touch_*_block`, by hands,
in another look, at another speed, before another camera, and without actions. Three videos in turn
show one scene, with another block touched in each: only the caption tells them apart at first.
"""

import json
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.encode import VideoEncoding, write_file
from handloom.stages.miniatures.people import reach
from handloom.stages.miniatures.ssv2 import FPS, NAME, VIDEOS

SCENES_TO_VAL = 10  # every tenth scene is for validation
TEMPLATES = ("Touching [something]", "Reaching for [something]")
WIDTH, HEIGHT = 320, 240


@folder.miniature_writer(
    "reaches", VIDEOS, *(f"{NAME}-{split}.json" for split in ("train", "validation")), version=1
)
def write(out: Path, clips: int = 300, seed: int = 0) -> None:
    """Write `clips` videos, every tenth scene of three for validation."""
    rows: dict[str, list[str]] = {"train": [], "validation": []}
    for index in range(clips):
        scene, target = divmod(index, 3)
        split = "validation" if scene % SCENES_TO_VAL == SCENES_TO_VAL - 1 else "train"
        rows[split].append(json.dumps(_row(index, list(reach.BLOCKS)[target])))
    for split, listed in rows.items():
        folder.write_text(out / f"{NAME}-{split}.json", "[\n" + ",\n".join(listed) + "\n]\n")
    folder.in_parallel(partial(_write_clip, out, seed, index) for index in range(clips))


def _row(index: int, color: str) -> dict[str, object]:
    template, thing = TEMPLATES[index // 3 % len(TEMPLATES)], f"the {color} block"
    label = template.replace("[something]", thing).lower()
    return {"id": str(index + 1), "label": label, "template": template, "placeholders": [thing]}


def _write_clip(out: Path, seed: int, index: int) -> None:
    scene, target = divmod(index, 3)
    shown = reach.random_reach(np.random.default_rng((seed, scene)), target)
    encoding = VideoEncoding("vp9", "webm", Fraction(FPS), FPS, (WIDTH, HEIGHT))
    write_file(out / VIDEOS / f"{index + 1}.webm", reach.render(shown, FPS), encoding)
