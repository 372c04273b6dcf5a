"""Writes a miniature EPIC-KITCHENS-100: long first-person videos and their action segments.

The oddities of the original: two frame rates, a time code beside the video, segments that overlap,
narrations without a time, an end beyond the end of the video, rows in the order of their ids as
text, a subset file that repeats rows, one video that is missing and one that was cut off.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.encode import Format, write_file
from handloom.stages.miniatures.people import takes
from handloom.stages.miniatures.people.takes import Acts, Take

VERSION = 1  # raise it whenever the same arguments give other bytes
VIDEOS, TABLES = "EPIC-KITCHENS", "epic-kitchens-100-annotations"
SIZE = (456, 256)  # as most copies have it
OLD_FPS, NEW_FPS = Fraction(60_000, 1001), Fraction(50)  # of 2018, and of the extension
RENDER_FPS = 10
PAUSE_S = 0.2

TIMES = ("narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp",
         "stop_timestamp", "start_frame", "stop_frame")  # fmt: skip
WORDS = ("narration", "verb", "verb_class", "noun", "noun_class", "all_nouns", "all_noun_classes")
VERBS: dict[str, tuple[int, str, str]] = {  # class, its name, its category
    "pick-up": (0, "take", "retrieve"),
    "put-on": (1, "put", "leave"),
    "move": (11, "move", "transition"),
    "shake": (15, "shake", "manipulate"),
    "push": (21, "press", "manipulate"),
    "pull": (31, "pull", "manipulate"),
    "tilt": (33, "lift", "retrieve"),
    "hold": (34, "hold", "manipulate"),
    "look-through": (38, "look", "monitor"),
}
NOUNS: dict[str, tuple[int, str, str]] = {
    "plate": (2, "plate", "crockery"),
    "cup": (13, "cup", "crockery"),
    "bottle": (15, "bottle", "containers"),
    "box": (23, "box", "containers"),
    "table": (42, "top", "furniture"),
    "window": (263, "window", "furniture"),
}
NARRATED: dict[str, tuple[str, str]] = {  # what is done: its verb, and the narration
    "pick": ("pick-up", "pick up {}"),
    "put": ("put-on", "put {} on table"),
    "left": ("move", "move {}"),
    "right": ("move", "still move {}"),
    "push": ("push", "push {}"),
    "pull": ("pull", "pull {}."),
    "shake": ("shake", "shake {}"),
    "tilt": ("tilt", "tilt {}"),
    "hold": ("hold", "hold {}"),
    "look": ("look-through", "look through {}"),
}
KINDS = ("plate", "cup", "bottle", "box")
LONG: Acts = (("pick", 0), ("put", 0), ("right", 0), ("push", 1), ("pull", 1),
              ("shake", 1), ("left", 0), ("tilt", 0), ("pick", 1), ("put", 1))  # fmt: skip
SHORT: tuple[Acts, ...] = (
    (("shake", 0), ("pick", 1), ("put", 1), ("left", 0), ("tilt", 1)),
    (("push", 0), ("left", 1), ("pull", 0), ("pick", 0), ("put", 0)),
    (("right", 1), ("tilt", 0), ("push", 1), ("pick", 0), ("put", 0)),
)

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Segment:
    """One action, in hundredths of a second; `narrated` is in thousandths, or None if unknown."""

    start: int
    stop: int
    narrated: int | None
    done: str
    nouns: tuple[str, ...]

    @property
    def words(self) -> tuple[object, ...]:
        """The columns from the narration on."""
        verb, narration = NARRATED[self.done]
        classes = [NOUNS[noun][0] for noun in self.nouns]
        return (
            narration.format(self.nouns[0]), verb, VERBS[verb][0],
            self.nouns[0], classes[0], list(self.nouns), classes,
        )  # fmt: skip


@dataclass(frozen=True)
class Video:
    """One video with its segments in time order."""

    video_id: str
    split: Split
    take: Take
    segments: tuple[Segment, ...]
    fault: Literal["", "missing", "truncated"] = ""

    @property
    def fps(self) -> Fraction:
        """The extension's videos have three digits."""
        return NEW_FPS if len(self.video_id) == len("P01_101") else OLD_FPS

    @property
    def participant(self) -> str:
        """Whose kitchen it is."""
        return self.video_id.partition("_")[0]

    @property
    def rows(self) -> Iterator[tuple[object, ...]]:
        """One for each segment; the test split's rows end before the narration."""
        rate = round(self.fps)  # frames were extracted at 60 and 50 per second
        for index, segment in enumerate(self.segments):
            narrated = "" if segment.narrated is None else _clock(segment.narrated, 1000)
            times = (
                f"{self.video_id}_{index}", self.participant, self.video_id, narrated,
                _clock(segment.start, 100), _clock(segment.stop, 100),
                max(1, segment.start * rate // 100), max(1, segment.stop * rate // 100),
            )  # fmt: skip
            yield times if self.split == "test" else times + segment.words


def write(out: Path, clips: int = 30, seed: int = 0) -> None:
    """Write a miniature EPIC-KITCHENS-100 with about `clips` action segments below `out`.

    The same arguments give the same bytes. A finished folder is left alone, any other miniature is
    written anew. Raises UserError where `out` holds a dataset that is not a miniature.
    """
    settings = {"clips": clips, "seed": seed, "version": VERSION}
    home = folder.Folder(out, "epic_kitchens", (VIDEOS, TABLES), settings)
    home.fill(lambda: _write(out, plan(clips, seed)))


def plan(clips: int, seed: int) -> tuple[Video, ...]:
    """All videos: one long, then short ones; for the test, broken ones, and one without hands."""
    count = max(3, 1 + round((clips - 12) / 6))
    names: tuple[tuple[str, Split], ...] = (
        ("01", "train"), ("102", "train"), ("11", "validation"), ("02", "train"),
    )  # fmt: skip
    main = [
        _video(seed, f"P{1 + i // 4:02d}_{names[i % 4][0]}", names[i % 4][1], i)
        for i in range(count)
    ]
    # The last action of the validation video stops after the video does.
    last = main[2].segments[-1]
    late = replace(last, stop=round(100 * main[2].take.seconds) + 2)
    main[2] = replace(main[2], segments=(*main[2].segments[:-1], late))
    return (
        *main,
        _video(seed, "P01_101", "test", 801),
        replace(_video(seed, "P01_03", "train", 802), fault="missing"),
        replace(_video(seed, "P01_04", "train", 803), fault="truncated"),
        _view(seed, "P01_05"),
    )


def _video(seed: int, video_id: str, split: Split, index: int) -> Video:
    acts = SHORT[index % len(SHORT)] if index else LONG
    rng = np.random.default_rng((seed, index))
    take = takes.hands(rng, acts, KINDS, shape="wide", pause_s=PAUSE_S)
    return Video(video_id, split, take, tuple(_segments(take)))


def _view(seed: int, video_id: str) -> Video:
    """Nobody's hands, and a narrator who says so."""
    take = takes.nobody(np.random.default_rng((seed, 804)), "hills", 6.0, "wide")
    segments = tuple(
        Segment(start, start + 250, 10 * start + 400, "look", ("window",)) for start in (50, 320)
    )
    return Video(video_id, "train", take, segments)


def _segments(take: Take) -> Iterator[Segment]:
    """What is done, in time order. What is in the hand is held meanwhile; a third runs on."""
    for index, action in enumerate(take.actions):
        noun = take.things[action.thing].kind
        start, stop = round(100 * action.start_s), round(100 * action.end_s)
        stop += 45 if index % 3 == 0 else -20
        nouns = (noun, "table") if action.verb == "put" else (noun,)
        # The narrator speaks before, during or after it, and not always at a known time.
        narrated = None if index % 5 == 3 else max(0, 10 * start + 700 * (index % 3) - 300)
        yield Segment(start, stop, narrated, action.verb, nouns)
        if action.verb == "pick":
            yield Segment(start + 75, start + 430, 10 * start + 900, "hold", (noun,))


def _clock(units: int, per_second: int) -> str:
    """`HH:MM:SS` with two or three decimals."""
    seconds, rest = divmod(units, per_second)
    digits = len(str(per_second)) - 1
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:0{digits}d}"


def _write(out: Path, videos: Sequence[Video]) -> None:
    tables = out / TABLES
    rows = {split: _sorted(videos, split) for split in ("train", "validation", "test")}
    for split in ("train", "validation"):
        listed = rows[split]
        folder.write_table(tables / f"EPIC_100_{split}.csv", TIMES + WORDS, listed)
        silent = [row[0] for row in listed if not row[3]]
        folder.write_table(
            tables / f"EPIC_100_{split}_missing_timestamp_narrations.csv",
            ("", "narration_id"),
            list(enumerate(silent)),
        )
    folder.write_table(tables / "EPIC_100_test_timestamps.csv", TIMES, rows["test"])
    subset = tables / "UDA_annotations/EPIC_100_uda_source_train.csv"
    folder.write_table(subset, TIMES + WORDS, rows["train"][::2])
    info = [
        (v.video_id, v.take.seconds, round(float(v.fps), 13), "x".join(map(str, SIZE)))
        for v in sorted(videos, key=lambda v: v.video_id)
    ]
    columns = ("video_id", "duration", "fps", "resolution")
    folder.write_table(tables / "EPIC_100_video_info.csv", columns, info)
    _write_classes(tables)
    folder.in_parallel(
        partial(_film, out / f"{VIDEOS}/{v.participant}/videos/{v.video_id}.MP4", v)
        for v in videos
        if v.fault != "missing"
    )


def _sorted(videos: Iterable[Video], split: str) -> list[tuple[object, ...]]:
    """Rows of a split in the order of their ids as text: `_10` before `_2`."""
    rows = (row for video in videos if video.split == split for row in video.rows)
    return sorted(rows, key=lambda row: str(row[0]))


def _write_classes(tables: Path) -> None:
    for kind, classes in (("verb", VERBS), ("noun", NOUNS)):
        rows = [(at, key, [word], category) for word, (at, key, category) in classes.items()]
        columns = ("id", "key", "instances", "category")
        folder.write_table(tables / f"EPIC_100_{kind}_classes.csv", columns, sorted(rows))


def _film(path: Path, video: Video) -> None:
    form = Format(
        "h264", fps=video.fps, render_fps=RENDER_FPS, size=SIZE, sound="aac", timecode=True
    )
    kept = Fraction(3, 5) if video.fault == "truncated" else Fraction(1)
    write_file(path, takes.frames(video.take, RENDER_FPS), form, kept)
