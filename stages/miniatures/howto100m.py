"""A miniature HowTo100M: narrated videos as a video site delivers them, with recognised speech.

Speech has neither case nor punctuation, its lines roll (each stays until the one after the next
begins), and actions happen a little before or after they are named. Besides good files there are
ids without a file, an empty file, an unfinished download and a web page saved as a video.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.encode import VideoEncoding, write_file
from handloom.stages.miniatures.people import takes
from handloom.stages.miniatures.people.takes import Acts, Shape, Take

PARTS = ("HowTo100M_v1.csv", "task_ids.csv", "caption.json", "raw_caption.json", "videos")
RENDER_FPS = 10
PAUSE_S = 1.0
LINE_S = 1.7  # from one line of an action to the next

FILMED: tuple[tuple[str, str, Shape, VideoEncoding], ...] = (  # first character of the id, suffix
    ("", "mp4", "wide", VideoEncoding("h264", size=(426, 240), sound="aac")),
    ("-", "webm", "full",
     VideoEncoding("vp9", "webm", Fraction(24), size=(320, 240), sound="opus")),
    ("_", "mkv", "full",
     VideoEncoding("h264", "matroska", Fraction(25), size=(480, 360), sound="aac")),
    ("", "mp4", "tall", VideoEncoding("h264", sound="aac", rotated=True)),  # by a phone
)  # fmt: skip
ACTS: tuple[Acts, ...] = (
    (("pick", 0), ("put", 0), ("right", 0), ("tilt", 0)),
    (("push", 0), ("shake", 0), ("pull", 0), ("left", 0)),
)
SPEECH: dict[str, tuple[str, str]] = {  # two lines for each action
    "pick": ("okay so now i&#39;m gonna go ahead and", "pick up the {} just like that"),
    "put": ("and then you just want to put the {}", "back down on the table"),
    "right": ("next we&#39;re going to move the {}", "over to the right a little bit"),
    "left": ("and you can move the {}", "over to the left side"),
    "push": ("now push the {} away from you", "nice and slow &amp; steady"),
    "pull": ("and pull the {} back towards you", "until it is close enough"),
    "shake": ("so give the {} a good shake", "you&#39;ll hear if there is something in it"),
    "tilt": ("if you tilt the {} like this", "you can see what&#39;s inside"),
}
INTRO = "hey guys welcome back to my channel"
OUTRO = ("thanks for watching", "gracias por ver 👋")
WALK = (
    "what a beautiful day it is", "you can see the hills over there", "and the clouds are moving",
    "i come up here every weekend", "it is so quiet", "so let&#39;s go",
)  # fmt: skip
STOP_WORDS = """
    a and are at back can come down for from go going gonna i i&#39;m if in is it just like me my
    next now of okay on over so that the then there this to until up want we we&#39;re what
    what&#39;s you you&#39;ll
"""
TASKS = {52907: "Set a Table", 109057: "Move a Cup Without Spilling", 119814: "Enjoy the Outdoors"}
CATEGORIES = (("Home and Garden", "Kitchen & Dining"), ("Hobbies and Crafts", "Crafts"))
WEB_PAGE = "<!DOCTYPE html>\n<html><head><title>Error 429</title></head><body></body></html>\n"

Line = tuple[float, float, str]
Fault = Literal["", "missing", "empty", "part", "page", "unlisted"]


@dataclass(frozen=True)
class SpokenVideo:
    """One video: takes that follow each other, and recognised lines (start, end, text)."""

    video_id: str
    takes: tuple[Take, ...]
    lines: tuple[Line, ...]
    encoding: VideoEncoding
    suffix: str = "mp4"
    fault: Fault = ""


@folder.miniature_writer("howto100m", *PARTS, version=1)
def write(out: Path, clips: int = 32, seed: int = 0) -> None:
    """Write a miniature HowTo100M with about `clips` hand actions in playable videos."""
    videos = plan(clips, seed)
    _write_tables(out, [video for video in videos if video.fault != "unlisted"])
    folder.in_parallel(
        partial(_write_video, out / "videos", video) for video in videos if video.fault != "missing"
    )


def plan(clips: int, seed: int) -> tuple[SpokenVideo, ...]:
    """All videos: at least four of hands, one without, and one or more for each fault."""
    count = max(len(FILMED), round(clips / sum(map(len, ACTS))))
    faults: tuple[Fault, ...] = ("missing", "missing", "missing", "empty", "part", "page")
    return (
        *(_lesson(seed, index) for index in range(count)),
        _walk(seed, 800, ""),
        *(_lesson(seed, 900 + 4 * index, fault) for index, fault in enumerate(faults)),
        _walk(seed, 801, "unlisted"),
    )


def _lesson(seed: int, index: int, fault: Fault = "") -> SpokenVideo:
    rng = np.random.default_rng((seed, index))
    first, suffix, shape, encoding = FILMED[index % len(FILMED)]
    video_id = folder.web_video_id(rng, first)
    filmed = tuple(takes.hand_take(rng, acts, shape=shape, pause_s=PAUSE_S) for acts in ACTS)
    spoken = tuple(_spoken(rng, filmed))
    return SpokenVideo(video_id, filmed, _recognised(spoken, filmed), encoding, suffix, fault)


def _walk(seed: int, index: int, fault: Fault) -> SpokenVideo:
    """A video of hills without hands: 20 s, or 4 s if it is not annotated."""
    rng = np.random.default_rng((seed, index))
    take = takes.empty_take(rng, "hills", 4.0 if fault else 20.0, "wide")
    spoken = [(1.0 + 3.0 * i, text) for i, text in enumerate(WALK)]
    video_id = folder.web_video_id(rng)
    return SpokenVideo(video_id, (take,), _recognised(spoken, (take,)), FILMED[0][3], "mp4", fault)


def _spoken(rng: np.random.Generator, filmed: Sequence[Take]) -> Iterator[tuple[float, str]]:
    """Start of each line in seconds, up to 0.2 s before or a second after its action."""
    yield 0.0, "[Music]"
    yield 0.4, INTRO
    from_s = 0.0
    for take in filmed:
        for action in take.actions:
            at_s = from_s + action.start_s + 0.01 * int(rng.integers(-20, 100))
            name = take.names[action.thing]
            for number, text in enumerate(SPEECH[action.verb]):
                yield round(at_s + number * LINE_S, 2), text.format(name)
        from_s += take.seconds


def _recognised(spoken: Sequence[tuple[float, str]], filmed: Sequence[Take]) -> tuple[Line, ...]:
    """Rolling lines, with recognised noise, and some after the end of the video."""
    starts = [start for start, _ in spoken]
    ends = [*starts[2:], starts[-1] + 2.2, starts[-1] + 3.5]
    lines = [(start, round(end, 2), text) for (start, text), end in zip(spoken, ends, strict=True)]
    at_s = starts[len(lines) // 2]
    lines[len(lines) // 2 : len(lines) // 2] = [
        (at_s, at_s, "um"),
        (at_s, at_s + 1, ""),
        (at_s, at_s + 1, "nan"),
    ]
    end_s = round(sum(take.seconds for take in filmed), 2)
    beyond = [(end_s - 1, end_s + 2, OUTRO[0]), (end_s + 1, end_s + 4, OUTRO[1])]
    return (*lines, *((round(start, 2), round(end, 2), text) for start, end, text in beyond))


def _write_tables(out: Path, listed: Sequence[SpokenVideo]) -> None:
    raw = {v.video_id: _caption(v.lines) for v in listed}
    folder.write_json(out / "raw_caption.json", raw, None)
    short = {v.video_id: _caption(_without_stop_words(v.lines)) for v in listed}
    folder.write_json(out / "caption.json", short, None)
    tasks = list(TASKS)
    rows = [
        (v.video_id, *CATEGORIES[i % len(CATEGORIES)], i + 1, tasks[i % len(tasks)])
        for i, v in enumerate(listed)
    ]
    rows.append((listed[0].video_id, *CATEGORIES[0], 99, tasks[1]))  # listed for two tasks
    columns = ("video_id", "category_1", "category_2", "rank", "task_id")
    folder.write_table(out / "HowTo100M_v1.csv", columns, rows)
    folder.write_table(out / "task_ids.csv", ("id", "task_name"), TASKS.items(), "\t")


def _caption(lines: Sequence[Line]) -> dict[str, list[float] | list[str]]:
    return {
        "start": [start for start, _, _ in lines],
        "end": [end for _, end, _ in lines],
        "text": [text for _, _, text in lines],
    }


def _without_stop_words(lines: Sequence[Line]) -> list[Line]:
    removed = frozenset(STOP_WORDS.split())
    return [
        (start, end, " ".join(word for word in text.split() if word not in removed))
        for start, end, text in lines
    ]


def _write_video(videos: Path, video: SpokenVideo) -> None:
    """Write a video, or what a failed download leaves of it."""
    path = videos / f"{video.video_id}.{video.suffix}"
    if video.fault == "page":
        folder.write_text(path, WEB_PAGE)
    elif video.fault == "empty":
        folder.write_text(path, "")
    elif video.fault == "part":
        folder.write_text(path.with_name(path.name + ".part"), "\0" * 4096)
    else:
        write_file(path, takes.render_sequence(video.takes, RENDER_FPS), video.encoding)
