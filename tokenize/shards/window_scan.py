"""One pass over the clips of a folder when its windows are opened: views, paces, how many windows.

Nothing is left to be found out by the step that happens to draw a clip. N clips.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from handloom.errors import UserError
from handloom.tokenize.shards.dataset import ShardDataset
from handloom.tokenize.shards.format import Integers
from handloom.tokenize.shards.pace import Pace, pace_of

AT_ONCE = 4096  # clips whose metadata are held at a time
Views = tuple[str, ...]
Metas = npt.NDArray[np.object_] | None


@dataclass(frozen=True)
class Cut:
    """The extent of a window.

    Args:
        frames: F.
        spacing_s: seconds from one frame to the next. None is half a second, but for clips that
            hold a few frames spread over their length: consecutive ones of those.
        views: names of the views to read; all by default.
        joint: all of `views` at once, as one sample with several pictures a frame; else each view
            is a sample of its own.

    Raises:
        UserError: which of them is out of range.
    """

    frames: int
    spacing_s: float | None = None
    views: Views = ()
    joint: bool = False

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise UserError(f"windows of {self.frames} frames are asked for; give 1 or more.")
        if self.spacing_s is not None and not 0 < self.spacing_s < math.inf:
            raise UserError(f"a spacing of {self.spacing_s} s is asked for; give more than 0.")
        if len(set(self.views)) < len(self.views) or (self.joint and not self.views):
            named = ", ".join(self.views) or "none"
            raise UserError(f"the views asked for are {named}; name some, each once.")

    def choices(self, names: Views) -> list[tuple[int, ...]]:
        """Numbers of the views of each kind of window of a clip with views of these names."""
        wanted = [names.index(name) for name in self.views or names if name in names]
        if self.joint:
            return [tuple(wanted)] if len(wanted) == len(self.views) else []
        return [(view,) for view in wanted]


@dataclass
class Counts:
    """Numbers of the clips of a folder, and of their windows."""

    clips: int = 0
    windows: int = 0
    used: int = 0
    """Clips with at least one window."""
    without_views: int = 0
    too_sparse: int = 0
    """Clips whose pictures lie so far apart that two frames of a window would be the same."""
    too_short: int = 0
    """Clips with fewer pictures than a window needs."""
    longest: int = 0
    """Distinct pictures of the longest clip that is too short."""
    needed: int = 0
    """Distinct pictures that it would need."""
    sparsest_s: float = 0.0
    """Largest time between two pictures of a clip that is too sparse."""


@dataclass
class Scan:
    """Everything that reading windows needs to know of the clips.

    Attributes:
        whole: True where each clip is one window of all its frames; the arrays are empty then.
        paces: by number.
        labels: names of the views of a clip, by number.
        pace: of each clip, int16 [N].
        label: of each clip, int32 [N].
        starts: number of the first window of each clip, and the number of all, int64 [N + 1].
        grids: sizes (rows, columns) of pictures in codes.
    """

    counts: Counts = field(default_factory=Counts)
    whole: bool = True
    paces: dict[Pace, int] = field(default_factory=dict)
    labels: dict[Views, int] = field(default_factory=dict)
    pace: npt.NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    label: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    starts: Integers = field(default_factory=lambda: np.zeros(1, np.int64))
    grids: set[tuple[int, int]] = field(default_factory=set)


def scan(data: ShardDataset, cut: Cut) -> Scan:
    """Find the windows of all clips.

    Raises:
        UserError: a clip's views and codes do not fit each other; names it.
    """
    found, parts = Scan(), Parts()
    first = data[0] if len(data) else {}
    for numbers, shapes, metas in _chunks(data, cut, first):
        pace, label = _numbered(found, data, cut, numbers, shapes, metas, first)
        windows = _windows(found, cut, shapes[:, 1], pace, label, len(numbers) // len(shapes))
        found.whole &= cut.spacing_s is None and bool((shapes[:, :2] == (1, cut.frames)).all())
        found.whole &= bool((windows == 1).all())
        same = (shapes[:, 2:] == shapes[0, 2:]).all()
        found.grids |= set(map(tuple, shapes[:1, 2:] if same else np.unique(shapes[:, 2:], axis=0)))
        parts.add(len(numbers), pace, label, windows)
    found.whole &= all(pace.spacing_s is None for pace in found.paces)
    if not found.whole:
        found.pace, found.label, windows = parts.together()
        found.starts = np.concatenate([[0], np.cumsum(windows)])
    return found


class Parts:
    """Pace, label and windows of chunks of clips; a chunk of like clips takes one value of each."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._columns: tuple[list[npt.NDArray[Any]], ...] = ([], [], [])

    def add(self, count: int, *columns: npt.NDArray[Any]) -> None:
        """Keep the columns of a chunk, each of as many values as clips or of one for all."""
        self._counts.append(count)
        for kept, column in zip(self._columns, columns, strict=True):
            kept.append(column)

    def together(self) -> list[npt.NDArray[Any]]:
        """The columns of all clips."""
        counts = self._counts
        return [np.concatenate(list(map(np.broadcast_to, kept, counts))) for kept in self._columns]


def _chunks(
    data: ShardDataset, cut: Cut, first: dict[str, Any]
) -> Iterator[tuple[Integers, Integers, Metas]]:
    """Numbers, shapes and, where they matter, metadata of all clips, some at a time.

    Where metadata do not matter, clips of one shape may come with that shape alone.
    """
    if not len(data):
        return
    if "action_kind" not in first and (cut.spacing_s is None or dense_s(data)):
        for start, count, shapes in data.shapes():
            yield np.arange(start, start + count), shapes, None
        return
    for start in range(0, len(data), AT_ONCE):
        numbers = np.arange(start, min(start + AT_ONCE, len(data)))
        selection = data.find(numbers, ("meta",))
        yield numbers, selection.shapes, selection.columns["meta"]


def dense_s(data: ShardDataset) -> float | None:
    """Seconds between stored frames where clips of people were sampled at a fixed rate."""
    spacing_s = data.manifest.get("frames", {}).get("spacing_s")
    return None if spacing_s is None else float(spacing_s)


def _numbered(
    found: Scan,
    data: ShardDataset,
    cut: Cut,
    numbers: Integers,
    shapes: Integers,
    metas: Metas,
    first: dict[str, Any],
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32]]:
    """Numbers of the pace and of the label of each clip; new ones are added to `found`."""
    dense, frames = dense_s(data), cut.frames
    if metas is None:
        pace = found.paces.setdefault(pace_of({}, dense, cut.spacing_s, frames), len(found.paces))
        names = _names(data, int(numbers[0]), first, int(shapes[0, 0]))
        label = found.labels.setdefault(names, len(found.labels))
        return np.full(len(shapes), pace, np.int16), np.full(len(shapes), label, np.int32)
    paces, labels = np.empty(len(numbers), np.int16), np.empty(len(numbers), np.int32)
    for i, (number, meta, views) in enumerate(
        zip(numbers.tolist(), metas, shapes[:, 0].tolist(), strict=True)
    ):
        pace_here = pace_of(meta, dense, cut.spacing_s, frames)
        paces[i] = found.paces.setdefault(pace_here, len(found.paces))
        names = _names(data, number, meta, views)
        labels[i] = found.labels.setdefault(names, len(found.labels))
    return paces, labels


def _names(data: ShardDataset, number: int, meta: dict[str, Any], views: int) -> Views:
    names = tuple(meta.get("views", ("main",)))
    if len(names) != views:
        raise UserError(
            f"{data.path}/{data.split}, {data[number]['clip_id']} has codes of {views} views and "
            f"names {', '.join(names)}; run `handloom curate` again."
        )
    return names


def _windows(
    found: Scan,
    cut: Cut,
    stored: Integers,
    pace: npt.NDArray[np.int16],
    label: npt.NDArray[np.int32],
    times: int,
) -> Integers:
    """Windows of each clip; those without any are counted.

    Args:
        found: whose counts grow.
        cut: of the windows.
        stored: frames of each clip.
        pace: of each clip.
        label: of each clip.
        times: clips that each of these stands for.
    """
    windows, counts = np.zeros(len(stored), np.int64), found.counts
    ways = np.array([len(cut.choices(names)) for names in found.labels], np.int64)[label]
    for number, kind in enumerate(found.paces):
        here = (pace == number) & (ways > 0)
        if not here.any():
            continue
        of_view, count = kind.windows(stored[here]), times * int(here.sum())
        windows[here] = of_view * ways[here]
        if not kind.offsets:
            counts.too_sparse += count
            counts.sparsest_s = max(counts.sparsest_s, kind.picture_s or 0.0)
            continue
        short = of_view == 0
        counts.too_short += times * int(short.sum())
        longest = int(kind.pictures(stored[here][short]).max(initial=0))
        if longest > counts.longest or not counts.needed:
            counts.longest, counts.needed = longest, kind.needed
    counts.clips += times * len(stored)
    counts.windows += times * int(windows.sum())
    counts.used += times * int((windows > 0).sum())
    counts.without_views += times * int((ways == 0).sum())
    return windows
