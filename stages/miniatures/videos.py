"""A miniature of somebody's folder of videos, and the list of some of them beside it.

Days as folders, names as cameras give them, other files between. A recording is a stretch with
hands, one without, and one with hands again. `clips.csv` names some recordings whole, others by
clips; one of its rows names a file that is not there, one has no text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from handloom.stages.datasets.video_list import COLUMNS
from handloom.stages.miniatures import folder
from handloom.stages.miniatures.encode import VideoEncoding, write_file
from handloom.stages.miniatures.people import takes
from handloom.stages.miniatures.people.raster import Frame
from handloom.stages.miniatures.people.takes import Take

DAYS = ("2026-05-01", "2026-05-02/kitchen")
TABLE = "clips.csv"
RENDER_FPS = 10
ACTS: takes.Acts = (("pick", 0), ("push", 1))
ENDS = (".MP4", ".mov", ".mkv")


@dataclass(frozen=True)
class Recording:
    """A file: what happens in it one after the other, from one camera."""

    path: str
    takes: tuple[Take, ...]

    def frames(self) -> Iterator[Frame]:
        """All frames, at RENDER_FPS."""
        return chain.from_iterable(takes.render(take, RENDER_FPS) for take in self.takes)

    @property
    def edges_s(self) -> list[float]:
        """Start of each take, and the end of the last."""
        return [0.0, *np.cumsum([take.seconds for take in self.takes]).round(2).tolist()]


@folder.miniature_writer("videos", "2026-05-01", "2026-05-02", TABLE, version=1)
def write(out: Path, clips: int = 12, seed: int = 0) -> None:
    """Write a folder with about `clips` stretches of hands, two in each recording."""
    recordings = [_recording(seed, number) for number in range(max(2, clips // 2))]
    folder.write_table(out / TABLE, COLUMNS, _rows(recordings))
    for day in DAYS:
        folder.write_text(out / day / "notes.txt", "Not a video.\n")
    folder.in_parallel(
        partial(write_file, out / one.path, one.frames(), _encoding(one)) for one in recordings
    )


def _recording(seed: int, number: int) -> Recording:
    rng = np.random.default_rng((seed, number))
    shown = (
        takes.hand_take(rng, ACTS, action_s=2.5),
        takes.empty_take(rng, "rolls", 7.0),
        takes.hand_take(rng, ACTS[:1], action_s=3.0),
    )
    name = f"{DAYS[number % len(DAYS)]}/IMG_{number + 1:04d}{ENDS[number % len(ENDS)]}"
    return Recording(name, shown)


def _rows(recordings: list[Recording]) -> Iterator[tuple[Any, ...]]:
    """Every second recording whole, the others by their two stretches of hands."""
    for number, one in enumerate(recordings):
        names = [name for take in (one.takes[0], one.takes[2]) for name in take.names[:1]]
        if number % 2 == 0:
            yield one.path, "", "", f"moves the {names[0]}", ""
            continue
        starts_s = one.edges_s
        yield one.path, starts_s[0], starts_s[1], f"picks up the {names[0]}", "train"
        yield one.path, starts_s[2], starts_s[3], f"picks up the {names[1]}", "train"
    yield recordings[1].path, recordings[1].edges_s[1], recordings[1].edges_s[2], "", "train"
    yield f"{DAYS[0]}/IMG_9999.MP4", "", "", "opens a drawer", ""


def _encoding(one: Recording) -> VideoEncoding:
    is_matroska = one.path.endswith(".mkv")
    return VideoEncoding(
        "h264", "matroska" if is_matroska else "mp4", Fraction(30), RENDER_FPS, sound="aac"
    )
