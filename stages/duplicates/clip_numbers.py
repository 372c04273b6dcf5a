"""Numbers of clips and frames, by which the steps of the search name them.

Clips of all runs are numbered in the order of their ids, their frames one after the other: so the
numbers, and all that ties are decided by, do not depend on how the work is divided.

Shapes: N clips, R rows of the `hands` tables, G groups of buckets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from handloom.errors import RunError
from handloom.files import whole
from handloom.stages.duplicates.partitions import Ints, damaged, opened
from handloom.stages.tables.columns import matched
from handloom.stages.tables.outcomes import passed
from handloom.stages.tables.parts import Tables

NO_CLIP = -1  # number of a row whose clip is not compared
ORDER_BYTES = 16  # of an id that decide its order; ids are hashes of 20 hex digits
SMALL_BYTES = 1 << 16  # arrays up to this size are read at once
NAMES = ("first", "video", "home", "numbers", "starts")  # arrays, in the order they are written


@dataclass(frozen=True)
class Source:
    """A run whose clips are compared."""

    tables: Tables
    is_own: bool
    """False for another run, of which the clips count that `select` kept."""


@dataclass(frozen=True)
class Group:
    """Buckets of one source, which one task reads."""

    source: int
    buckets: tuple[str, ...]


@dataclass(frozen=True)
class Numbers:
    """Arrays on disk; they are read as they are used."""

    first: Ints
    """int64 [N + 1]: number of each clip's first frame."""
    video: npt.NDArray[np.int32]
    """int32 [N]: number of the source video; clips of one are not compared."""
    home: npt.NDArray[np.int32]
    """int32 [N]: number of the group that holds the clip."""
    numbers: npt.NDArray[np.int32]
    """int32 [R]: number of each row's clip, group after group; NO_CLIP if it is not compared."""
    starts: Ints
    """int64 [G + 1]: rows before each group."""

    @property
    def clips(self) -> int:
        """Number of clips."""
        return len(self.video)

    @property
    def frames(self) -> int:
        """Number of frames."""
        return int(self.first[-1])

    def clip_of(self, frames: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """Clips of some frames, int32 [F]."""
        return (np.searchsorted(self.first, frames, "right") - 1).astype(np.int32)

    def rows_of(self, group: int) -> npt.NDArray[np.int32]:
        """Clip numbers of a group's rows."""
        return np.asarray(self.numbers[self.starts[group] : self.starts[group + 1]])


def number_clips(sources: Sequence[Source], groups: Sequence[Group], folder: Path) -> None:
    """Write the arrays of `Numbers`.

    Memory: 30 bytes a clip, and one bucket's rows.
    """
    home = {(g.source, b): n for n, g in enumerate(groups) for b in g.buckets}
    parts: dict[tuple[int, str], _Bucket] = {}
    videos = 0
    for bucket in sorted({bucket for _, bucket in home}):
        here = [n for n in range(len(sources)) if (n, bucket) in home]
        read = {n: _Bucket.read(sources[n], bucket) for n in here}
        videos += _number_videos(list(read.values()), videos)
        _drop_repeated(read, sources)
        parts |= {(n, bucket): part for n, part in read.items()}
    ordered = [parts[group.source, b] for group in groups for b in group.buckets]
    rows = {name: np.concatenate([getattr(p, name) for p in ordered]) for name in _Bucket.ARRAYS}
    homes = np.array([home[g.source, b] for g in groups for b in g.buckets], np.int32)
    lengths = [len(part.frames) for part in ordered]
    taken = np.flatnonzero(rows["taken"])
    order = taken[np.lexsort((rows["low"][taken], rows["high"][taken]))]
    numbers = np.full(len(rows["taken"]), NO_CLIP, np.int32)
    numbers[order] = np.arange(len(order))
    counts = np.bincount(np.repeat(homes, lengths), minlength=len(groups))
    arrays = {
        "first": np.append(0, np.cumsum(rows["frames"][order], dtype=np.int64)),
        "video": rows["video"][order],
        "home": np.repeat(homes, lengths)[order],
        "numbers": numbers,
        "starts": np.append(0, np.cumsum(counts, dtype=np.int64)),
    }
    for name in NAMES:
        with whole(folder / f"{name}.npy", sync=False) as temporary, temporary.open("wb") as file:
            np.save(file, arrays[name])


def read_numbers(folder: Path) -> Numbers:
    """The arrays that `number_clips` wrote.

    Raises:
        RunError: one is missing or damaged.
    """
    found = []
    for name in NAMES:
        path = folder / f"{name}.npy"
        with opened(path) as file:
            size = file.seek(0, 2)
        try:
            found.append(np.load(path, mmap_mode="r" if size > SMALL_BYTES else None))
        except (ValueError, EOFError):
            raise damaged(path) from None
    return Numbers(*found)


def are_numbered(folder: Path) -> bool:
    """Whether the arrays of `Numbers` lie there."""
    try:
        read_numbers(folder)
    except (RunError, OSError):
        return False
    return True


@dataclass
class _Bucket:
    """What the rows of a bucket of `hands` say of their clips, in the order of the table."""

    ids: list[str]
    names: list[str]  # of the source videos
    high: npt.NDArray[np.uint64]  # first bytes of the ids, whose order is that of the ids
    low: npt.NDArray[np.uint64]
    frames: npt.NDArray[np.int32]
    taken: npt.NDArray[np.bool_]
    video: npt.NDArray[np.int32]

    ARRAYS = ("high", "low", "frames", "taken", "video")

    @classmethod
    def read(cls, source: Source, bucket: str) -> "_Bucket":
        """Read the columns of a bucket."""
        hands = source.tables["hands"].columns(["clip_id", "times_s"], [bucket])
        kept = passed(source.tables, "hands" if source.is_own else "select", [bucket], ["clip_id"])
        taken = np.zeros(hands.num_rows, bool)
        if kept.num_rows:  # an empty one has no type
            taken = pc.is_in(hands["clip_id"], value_set=kept["clip_id"]).to_numpy()
        columns = ["clip_id", "dataset", "video_id"]
        ingest = source.tables["ingest"].columns(columns, [bucket])
        clips = clips_of(hands.filter(pa.array(taken)), ingest)
        names = np.full(hands.num_rows, "", object)
        if clips.num_rows:
            names[taken] = pc.binary_join_element_wise(clips["dataset"], clips["video_id"], "/")
        ids: list[str] = hands["clip_id"].to_pylist()
        encoded = np.array([i.encode() for i in ids], f"S{ORDER_BYTES}").view(">u8").reshape(-1, 2)
        frames = pc.fill_null(pc.list_value_length(hands["times_s"]), 0).to_numpy()
        high, low = encoded.astype(np.uint64).T
        none = np.zeros(len(ids), np.int32)
        return cls(ids, names.tolist(), high, low, frames.astype(np.int32), taken, none)


def clips_of(hands: pa.Table, ingest: pa.Table) -> pa.Table:
    """The rows of `ingest` of the clips in `hands`, in their order.

    Raises:
        RunError: a clip is not there.
    """
    try:
        if hands.num_rows and not ingest.num_rows:  # of no type that could be compared
            raise KeyError(hands["clip_id"][0].as_py())
        return matched(hands, ingest)
    except KeyError as error:
        raise RunError(
            f"clip {error.args[0]} is in the table `hands` and not in `ingest`, some of whose "
            "parts have been deleted; delete the file _stage.json and all parts of tables/hands "
            "and run the same command again."
        ) from None


def _number_videos(parts: Sequence[_Bucket], before: int) -> int:
    """Number the videos of a bucket, whose clips all lie in it; returns how many they are."""
    names = sorted({name for part in parts for name in part.names})
    number = {name: before + n for n, name in enumerate(names)}
    for part in parts:
        part.video = np.array([number[name] for name in part.names], np.int32)
        part.names = []
    return len(names)


def _drop_repeated(parts: dict[int, _Bucket], sources: Sequence[Source]) -> None:
    """Take a clip that several runs hold once: that of this run, else of the last of the others."""
    seen: set[str] = set()
    for number in _own_first(parts, sources):
        part = parts[number]
        if len(parts) > 1:
            part.taken = part.taken & np.array([i not in seen for i in part.ids], bool)
            seen.update(i for i, taken in zip(part.ids, part.taken, strict=True) if taken)
        part.ids = []


def _own_first(parts: dict[int, _Bucket], sources: Sequence[Source]) -> Iterator[int]:
    yield from (number for number in parts if sources[number].is_own)
    yield from (number for number in reversed(parts) if not sources[number].is_own)
