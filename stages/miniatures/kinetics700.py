"""A miniature Kinetics-700-2020: trimmed MP4 files named by video id and seconds.

Labels are classes of the original that fit the rendered clips loosely. As in the original, many
rows have no file; one file is empty, one has no index, one is shorter than its row, one has no row.
Ids begin with `-` and `_`, occur twice with other seconds and another label, and in two splits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.encode import VideoEncoding, write_file
from handloom.stages.miniatures.people import takes
from handloom.stages.miniatures.people.takes import Shape, Take

Split = Literal["train", "val", "test"]
Fault = Literal["", "missing", "empty", "truncated", "short", "unlisted"]

ROOT = "k700-2020"
SPLITS: dict[Split, str] = {  # by name of the folder: name in the tables
    "train": "train", "val": "validate", "test": "test",
}  # fmt: skip
COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
CLIP_S, SHORT_S = 10, 6
RENDER_FPS = 6  # a web video of a hand that moves this slowly loses nothing
FIRST_IDS = ("-Abc_dEf-12", "_x-YZ0_9aB-", "--7_q")

TABLEWARE, BALL = ("plate", "cup", "bottle"), ("ball",)
SCRIPTS: tuple[tuple[str, tuple[str, ...], takes.Acts], ...] = (
    ("setting table", TABLEWARE, (("put", 0), ("push", 1), ("right", 0))),
    ("bouncing ball (not juggling)", BALL, (("pick", 0), ("put", 0), ("right", 0))),
    ("playing marbles", BALL, (("push", 0), ("pull", 0), ("left", 0))),
    ("fidgeting", ("box", "cup", "bottle"), (("shake", 0), ("tilt", 1), ("shake", 0))),
)
ALONE: tuple[tuple[str, takes.Happening], ...] = (("bowling", "rolls"), ("paragliding", "hills"))
UNSEEN = (  # labels of rows without a file
    "massaging person's head",
    "punching person (boxing)",
    "passing American football (in game)",
    "passing american football (in game)",  # as a copy of an earlier release spells it
)
LAYOUTS: tuple[tuple[Shape, tuple[int, int], Fraction], ...] = (
    ("full", (340, 256), Fraction(30)),
    ("wide", (426, 240), Fraction(25)),
    ("tall", (240, 320), Fraction(30000, 1001)),
    ("full", (320, 240), Fraction(15)),
)  # fmt: skip


@dataclass(frozen=True)
class LabelledClip:
    """One row and its file, as far as its fault leaves them."""

    label: str
    video_id: str
    start_s: int
    split: Split
    take: Take
    encoding: VideoEncoding
    fault: Fault = ""

    @property
    def row(self) -> tuple[object, ...]:
        """Row in the table of its split."""
        end_s = self.start_s + CLIP_S
        return self.label, self.video_id, self.start_s, end_s, SPLITS[self.split]

    @property
    def path(self) -> str:
        """Path of the file below the dataset's folder."""
        seconds = f"{self.start_s:06d}_{self.start_s + CLIP_S:06d}"
        return f"{self.split}/{self.video_id}_{seconds}.mp4"


@folder.miniature_writer("kinetics", ROOT, version=1)
def write(out: Path, clips: int = 30, seed: int = 0) -> None:
    """Write a miniature Kinetics-700-2020 of `clips` good rows, and some bad ones, below `out`."""
    root, planned = out / ROOT, plan(clips, seed)
    for split in SPLITS:
        rows = [c.row for c in planned if c.split == split and c.fault != "unlisted"]
        folder.write_table(root / f"annotations/{split}.csv", COLUMNS, rows)
        (root / split).mkdir()
    folder.in_parallel(
        partial(_write_clip, root / clip.path, clip) for clip in planned if clip.fault != "missing"
    )


def plan(clips: int, seed: int) -> tuple[LabelledClip, ...]:
    """All clips: good ones, one for each fault, a tenth without a file, and two repeated ids."""
    good = [_clip(seed, i, i) for i in range(clips)]
    for at, first in enumerate(FIRST_IDS[:clips]):
        good[at] = replace(good[at], video_id=(first + good[at].video_id)[:11])
    faults: tuple[Fault, ...] = ("empty", "truncated", "short", "unlisted")
    odd = [replace(_clip(seed, 300 + i, i), fault=fault) for i, fault in enumerate(faults)]
    lost = [
        replace(_clip(seed, 500 + i, i), label=UNSEEN[i % len(UNSEEN)], fault="missing")
        for i in range(max(len(UNSEEN), clips // 10))
    ]
    return (*good, *odd, *lost, *_repeated(seed, clips, good[-2:]))


def _repeated(seed: int, clips: int, last: Sequence[LabelledClip]) -> Iterator[LabelledClip]:
    """Two ids again, at another time with another label; the second one in another split."""
    for index, clip in enumerate(last):
        again = _clip(seed, 700 + index, clips - len(last) + index + 1)  # neighbours differ
        start_s = clip.start_s + 2 * CLIP_S + 3
        other: Split = "val" if clip.split == "train" else "train"
        split = other if index else clip.split
        yield replace(again, video_id=clip.video_id, start_s=start_s, split=split)


def _clip(seed: int, number: int, content: int) -> LabelledClip:
    """The clip of a number; every fourth `content` has no hands."""
    rng = np.random.default_rng((seed, number))
    shape, size, fps = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
    if content % 4 == 3:
        label, happening = ALONE[content // 4 % len(ALONE)]
        take = takes.empty_take(rng, happening, CLIP_S, shape)
    else:
        label, kinds, acts = SCRIPTS[(content - content // 4) % len(SCRIPTS)]
        if len(kinds) > 1 and shape == "tall":  # two things need more room
            shape, size, fps = LAYOUTS[0]
        take = takes.hand_take(rng, acts, kinds, action_s=2.6, shape=shape, pause_s=0.2)
        take = replace(take, seconds=float(CLIP_S))  # after the last action hands rest
    splits: tuple[Split, ...] = ("train", "val", "train", "test", "train")
    sound: Literal["", "aac"] = "aac" if number % 3 else ""
    encoding = VideoEncoding("h264", fps=fps, render_fps=RENDER_FPS, size=size, sound=sound)
    start_s = int(rng.integers(0, 300))
    split = splits[number % len(splits)]
    return LabelledClip(label, folder.web_video_id(rng), start_s, split, take, encoding)


def _write_clip(path: Path, clip: LabelledClip) -> None:
    """Write a clip's file, as far as its fault leaves it; a truncated MP4 has lost its index."""
    if clip.fault == "empty":
        path.touch()
        return
    frames = takes.render(clip.take, RENDER_FPS)
    if clip.fault == "short":
        frames = islice(frames, SHORT_S * RENDER_FPS)
    fraction = Fraction(3, 5) if clip.fault == "truncated" else Fraction(1)
    write_file(path, frames, clip.encoding, fraction)
