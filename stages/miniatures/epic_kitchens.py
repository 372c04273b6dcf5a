"""A miniature EPIC-KITCHENS-100: long first-person videos and their action segments.

It has the oddities of the original: two frame rates, a timecode beside the video, overlapping
segments, narrations without a time, a segment that ends after its video, rows sorted by id as text,
a subset file that repeats rows, a missing video and one that is cut off.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.encode import VideoEncoding, write_file
from handloom.stages.miniatures.people import takes
from handloom.stages.miniatures.people.takes import Acts, Take

VIDEOS, TABLES = "EPIC-KITCHENS", "epic-kitchens-100-annotations"
SIZE = (456, 256)  # width and height of most copies
OLD_FPS, NEW_FPS = Fraction(60_000, 1001), Fraction(50)  # videos of 2018, and the extension
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
NARRATED: dict[str, tuple[str, str]] = {  # by what is done: the verb, and the narration
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
class ActionSegment:
    """One action.

    Attributes:
        start: in hundredths of a second.
        stop: in hundredths of a second.
        narrated_at: in milliseconds, or None if unknown.
        verb_key: what is done, a key of NARRATED.
        nouns: what it is done to, the main one first.
    """

    start: int
    stop: int
    narrated_at: int | None
    verb_key: str
    nouns: tuple[str, ...]

    @property
    def words(self) -> tuple[object, ...]:
        """The columns of the table from the narration on."""
        verb, narration = NARRATED[self.verb_key]
        classes = [NOUNS[noun][0] for noun in self.nouns]
        return (
            narration.format(self.nouns[0]), verb, VERBS[verb][0],
            self.nouns[0], classes[0], list(self.nouns), classes,
        )  # fmt: skip


@dataclass(frozen=True)
class SegmentedVideo:
    """One video with its segments in time order."""

    video_id: str
    split: Split
    take: Take
    segments: tuple[ActionSegment, ...]
    fault: Literal["", "missing", "truncated"] = ""

    @property
    def fps(self) -> Fraction:
        """Frames per second; the extension's videos have three digits."""
        return NEW_FPS if len(self.video_id) == len("P01_101") else OLD_FPS

    @property
    def participant(self) -> str:
        """Id of the person in the video."""
        return self.video_id.partition("_")[0]

    @property
    def rows(self) -> Iterator[tuple[object, ...]]:
        """Rows of the table, one a segment; those of the test split end before the narration."""
        rate = round(self.fps)  # frames are extracted at 60 and 50 per second
        for index, segment in enumerate(self.segments):
            narrated_at = "" if segment.narrated_at is None else _clock(segment.narrated_at, 1000)
            times = (
                f"{self.video_id}_{index}", self.participant, self.video_id, narrated_at,
                _clock(segment.start, 100), _clock(segment.stop, 100),
                max(1, segment.start * rate // 100), max(1, segment.stop * rate // 100),
            )  # fmt: skip
            yield times if self.split == "test" else times + segment.words


@folder.miniature_writer("epic_kitchens", VIDEOS, TABLES, version=1)
def write(out: Path, clips: int = 30, seed: int = 0) -> None:
    """Write a miniature EPIC-KITCHENS-100 with about `clips` action segments below `out`."""
    videos = plan(clips, seed)
    _write_tables(out / TABLES, videos)
    folder.in_parallel(
        partial(_write_video, out / f"{VIDEOS}/{v.participant}/videos/{v.video_id}.MP4", v)
        for v in videos
        if v.fault != "missing"
    )


def plan(clips: int, seed: int) -> tuple[SegmentedVideo, ...]:
    """All videos: a long one, short ones, one for test, broken ones, and one without hands."""
    count = max(3, 1 + round((clips - 12) / 6))  # the long video has 12 segments, a short one 6
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
        _empty_video(seed, "P01_05"),
    )


def _video(seed: int, video_id: str, split: Split, index: int) -> SegmentedVideo:
    acts = SHORT[index % len(SHORT)] if index else LONG
    rng = np.random.default_rng((seed, index))
    take = takes.hand_take(rng, acts, KINDS, shape="wide", pause_s=PAUSE_S)
    return SegmentedVideo(video_id, split, take, tuple(_segments(take)))


def _empty_video(seed: int, video_id: str) -> SegmentedVideo:
    """A video without hands, narrated as such."""
    take = takes.empty_take(np.random.default_rng((seed, 804)), "hills", 6.0, "wide")
    segments = tuple(
        ActionSegment(start, start + 250, 10 * start + 400, "look", ("window",))
        for start in (50, 320)
    )
    return SegmentedVideo(video_id, "train", take, segments)


def _segments(take: Take) -> Iterator[ActionSegment]:
    """Segments in time order: each action, and holding what was picked; every third runs on."""
    for index, action in enumerate(take.actions):
        noun = take.things[action.thing].kind
        start, stop = round(100 * action.start_s), round(100 * action.end_s)
        stop += 45 if index % 3 == 0 else -20
        nouns = (noun, "table") if action.verb == "put" else (noun,)
        # The narrator speaks before, during or after the action, not always at a known time.
        narrated_at = None if index % 5 == 3 else max(0, 10 * start + 700 * (index % 3) - 300)
        yield ActionSegment(start, stop, narrated_at, action.verb, nouns)
        if action.verb == "pick":
            yield ActionSegment(start + 75, start + 430, 10 * start + 900, "hold", (noun,))


def _clock(units: int, per_second: int) -> str:
    """Time as `HH:MM:SS` with two or three decimals, from hundredths or thousandths."""
    seconds, rest = divmod(units, per_second)
    digits = len(str(per_second)) - 1
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:0{digits}d}"


def _write_tables(tables: Path, videos: Sequence[SegmentedVideo]) -> None:
    rows = {split: _sorted_rows(videos, split) for split in ("train", "validation", "test")}
    for split in ("train", "validation"):
        split_rows = rows[split]
        folder.write_table(tables / f"EPIC_100_{split}.csv", TIMES + WORDS, split_rows)
        silent = [row[0] for row in split_rows if not row[3]]
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


def _sorted_rows(videos: Iterable[SegmentedVideo], split: str) -> list[tuple[object, ...]]:
    """Rows of a split in the order of their ids as text: `_10` before `_2`."""
    rows = (row for video in videos if video.split == split for row in video.rows)
    return sorted(rows, key=lambda row: str(row[0]))


def _write_classes(tables: Path) -> None:
    for kind, classes in (("verb", VERBS), ("noun", NOUNS)):
        rows = [(at, key, [word], category) for word, (at, key, category) in classes.items()]
        columns = ("id", "key", "instances", "category")
        folder.write_table(tables / f"EPIC_100_{kind}_classes.csv", columns, sorted(rows))


def _write_video(path: Path, video: SegmentedVideo) -> None:
    encoding = VideoEncoding(
        "h264", fps=video.fps, render_fps=RENDER_FPS, size=SIZE, sound="aac", timecode=True
    )
    fraction = Fraction(3, 5) if video.fault == "truncated" else Fraction(1)
    write_file(path, takes.render(video.take, RENDER_FPS), encoding, fraction)
