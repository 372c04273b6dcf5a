"""Positions of an endless stream to batches, for one dataset, a mixture and torch's workers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from handloom.errors import UserError
from handloom.tokenize.shards.facts import FACTS
from handloom.tokenize.shards.files import Files, LocalFiles
from handloom.tokenize.shards.format import ARRAYS, Codes, Integers
from handloom.tokenize.shards.open import OpenShard

Batch = dict[str, Any]
FIELDS = ("tokens", "caption", "clip_id")
ALL_FIELDS = (*FIELDS, *ARRAYS, "meta", *FACTS)
# Positions are turned into places so many at a time: numpy's cost a call is spread over them.
AHEAD = 4096


@dataclass(frozen=True)
class Slicing:
    """The part of every sample that is read: some views, a range of frames."""

    views: tuple[int, ...] | None
    frames: slice

    def __post_init__(self) -> None:
        if self.frames.step not in (None, 1):
            raise UserError(f"frames {self.frames} has a step; only a step of 1 is a range.")

    @cached_property
    def everything(self) -> bool:
        """True where no view and no frame is left out."""
        return self == Slicing(None, slice(None))

    def of(self, codes_vtij: Codes) -> Codes:
        """The same part of one sample's codes; a view of them unless `views` are given."""
        frames = codes_vtij[:, self.frames]
        return frames if self.views is None else frames[list(self.views)]


class Stream(ABC):
    """An endless order of samples: that of a ShardDataset, or of a Mixture of them."""

    path: Any
    split: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def select(self, positions: Integers, seed: int, fields: Sequence[str]) -> "Selection":
        """Find the samples at positions of the endless stream, without reading their codes."""

    def batches(
        self,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        *,
        fields: Sequence[str] = FIELDS,
        pin: bool = False,
        worker: int = 0,
        workers: int = 1,
    ) -> Iterator[Batch]:
        """Endless batches whose content depends on (seed, position) alone.

        Args:
            batch_size: samples a step over all ranks; each rank gets an equal contiguous part.
            seed: of the order. Every epoch has its own order and holds each sample once.
            rank: of this process.
            world_size: number of processes; there may be more of them than shards.
            start: samples that all ranks together have consumed before.
            fields: what to read: `tokens`, `caption`, `clip_id`, `state`, `action`, `meta`; of the
                metadata alone `dataset` (its name) and `spacing_s` (seconds between frames).
            pin: collate into page-locked memory; `tokens` are then a torch tensor.
            worker: of the `workers` that share the steps of this rank: step s is given by worker
                s % workers.
            workers: number of loading processes of this rank.

        Yields:
            `tokens` uint16 [B, V, T, I, J], `caption` and `clip_id` lists of B strings, `state` and
            `action` float32 [B, T, ·], `meta` a list of B objects, `dataset` and `spacing_s` lists
            of B values or None, and `position`, the samples consumed after this batch.

        Raises:
            UserError: the ranks do not divide the batch, the split is empty, an unknown field, or
                samples of different shapes in one batch.
        """
        _check(self, batch_size, rank, world_size, fields)
        share = batch_size // world_size
        first, stride = start + worker * batch_size, workers * batch_size
        steps_ahead = 1
        while True:
            begins = first + stride * np.arange(steps_ahead, dtype=np.int64)
            positions = (begins + rank * share)[:, None] + np.arange(share)
            selection = self.select(positions.ravel(), seed, fields)
            selection.check_uniform()
            codes = None if pin or "tokens" not in fields else _mapped(selection)
            for step, begin in enumerate(begins.tolist()):
                here = slice(step * share, (step + 1) * share)
                if codes is None:
                    part = selection.part(here.start, here.stop)
                    batch = collate(part, "tokens" in fields, pin)
                else:
                    batch = {"tokens": codes(here)} | _columns(selection.columns, here)
                batch["position"] = begin + batch_size
                yield batch
                del batch  # or it would hold its memory while the next one is made
            first += steps_ahead * stride
            # The first batch shall not wait for shards that only later ones need.
            steps_ahead = min(2 * steps_ahead, max(1, AHEAD // share))


@dataclass
class Selection:
    """Samples whose places are known, and whose codes are not read yet.

    Attributes:
        files: number of the shard, int64 [B].
        offsets: of the first code in its tar, int64 [B].
        shapes: of the codes, int64 [B, 4].
        columns: object arrays [B] of the fields that are no codes.
        sources: number in `datasets` of each sample's dataset, int64 [B].
        datasets: the ShardDatasets that samples may come from, or windows of such.
        uniform: True where all are known to come from one of them and to have one shape.
        pictures: bytes from a sample's offset to each of its pictures, int64 [B, V * F], view after
            view; a row of -1 where they lie one after the other. None where all rows do.
    """

    files: Integers
    offsets: Integers
    shapes: Integers
    columns: dict[str, npt.NDArray[np.object_]]
    sources: Integers
    datasets: Sequence[Any]
    uniform: bool = False
    pictures: Integers | None = None

    @staticmethod
    def empty(count: int, fields: Sequence[str], datasets: Sequence[Any]) -> "Selection":
        """Room for so many samples, of the first dataset until something else is put there."""
        columns = {name: np.empty(count, object) for name in fields if name != "tokens"}
        files, offsets = np.empty(count, np.int64), np.empty(count, np.int64)
        shapes, sources = np.empty((count, 4), np.int64), np.zeros(count, np.int64)
        return Selection(files, offsets, shapes, columns, sources, datasets)

    def fill(self, at: Integers, shard: OpenShard, rows: Integers, slicing: Slicing) -> None:
        """Put rows of one shard at these places."""
        self.offsets[at], self.shapes[at] = shard.places(rows)
        for name, column in self.columns.items():
            column[at] = _column(name, shard, rows, slicing)

    def put(self, at: Integers, other: "Selection", source: int) -> None:
        """Put samples of one of the datasets at these places."""
        self.files[at], self.offsets[at], self.shapes[at] = other.files, other.offsets, other.shapes
        self.sources[at] = source
        if other.pictures is not None:
            if self.pictures is None:
                self.pictures = np.full((len(self.files), other.pictures.shape[1]), -1)
            self.pictures[at] = other.pictures
        for name, column in self.columns.items():
            column[at] = other.columns[name]

    def part(self, start: int, stop: int) -> "Selection":
        """Some of the samples."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        here = slice(start, stop)
        numbers = self.files[here], self.offsets[here], self.shapes[here]
        pictures = None if self.pictures is None else self.pictures[here]
        sources = self.sources[here]
        return Selection(*numbers, columns, sources, self.datasets, self.uniform, pictures)

    def scattered(self, first: int) -> bool:
        """True where the pictures of a sample, and so of all of its dataset, lie apart."""
        return self.pictures is not None and bool(self.pictures[first, 0] >= 0)

    def check_uniform(self) -> None:
        """Set `uniform`; worth it before the samples are cut into batches."""
        self.uniform = bool(
            (self.sources == self.sources[0]).all() and (self.shapes == self.shapes[0]).all()
        )


def groups(numbers: Integers) -> Iterator[tuple[int, Integers]]:
    """Each number that occurs, in ascending order, and where it does."""
    # numpy sorts 16-bit integers by radix, several times faster
    small = numbers.astype(np.uint16) if len(numbers) and numbers.max() < 1 << 16 else numbers
    by_number = np.argsort(small, kind="stable")
    ends = np.flatnonzero(np.diff(numbers[by_number])) + 1
    for here in np.split(by_number, ends):
        if len(here):
            yield int(numbers[here[0]]), here


def collate(selection: Selection, tokens: bool = True, pin: bool = False) -> Batch:
    """Read selected samples into one batch.

    Args:
        selection: B samples.
        tokens: read the codes.
        pin: into page-locked memory, as a torch tensor.

    Raises:
        UserError: the samples are of different shapes.
    """
    batch: Batch = {"tokens": _tokens(selection, pin)} if tokens else {}
    return batch | _columns(selection.columns, slice(None))


def _columns(columns: dict[str, npt.NDArray[np.object_]], here: slice) -> Batch:
    return {
        name: _stack(name, column[here]) if name in ARRAYS else column[here].tolist()
        for name, column in columns.items()
    }


def _mapped(selection: Selection) -> Callable[[slice], Codes] | None:
    """A function that reads the codes of some samples; None where they are not uniform and local.

    The addresses are computed once for many batches: it took a third of a batch's time.
    """
    dataset = selection.datasets[selection.sources[0]]
    files, shape = dataset.files, tuple(selection.shapes[0].tolist())
    if not (selection.uniform and dataset.slicing.everything and isinstance(files, LocalFiles)):
        return None
    addresses, size = files.addresses(selection.files, selection.offsets), 2 * math.prod(shape)
    if selection.scattered(0):
        assert selection.pictures is not None
        addresses, size = addresses[:, None] + selection.pictures, 2 * math.prod(shape[2:])

    def codes(here: slice) -> Codes:
        return files.gather_at(addresses[here], size).view("<u2").reshape(-1, *shape)

    return codes


def _tokens(selection: Selection, pin: bool) -> Any:
    if not pin and (selection.uniform or (selection.sources == selection.sources[0]).all()):
        return _gather(selection.datasets[selection.sources[0]], selection, None)
    out, buffer = None, None
    for source, here in groups(selection.sources):
        codes = _gather(selection.datasets[source], selection, here)
        if out is None:
            out, buffer = _buffer((len(selection.files), *codes.shape[1:]), pin)
        elif out.shape[1:] != codes.shape[1:]:
            raise UserError(_differ([out.shape[1:], codes.shape[1:]]))
        out[here] = codes
    return buffer if pin else out


def _gather(dataset: Any, selection: Selection, here: Integers | None) -> Codes:
    """Codes of the samples of one dataset, uint16 [B, V, T, I, J], sliced."""
    shapes, files, offsets = selection.shapes, selection.files, selection.offsets
    if here is not None:
        shapes, files, offsets = shapes[here], files[here], offsets[here]
    slicing: Slicing = dataset.slicing
    if selection.pictures is not None and selection.scattered(0 if here is None else int(here[0])):
        pictures = selection.pictures if here is None else selection.pictures[here]
        return _read_pictures(dataset.files, files, offsets, pictures, shapes)
    if slicing.everything and (selection.uniform or (shapes == shapes[0]).all()):
        return _read(dataset.files, files, offsets, tuple(shapes[0].tolist()))
    return _gather_part(dataset.files, slicing, shapes, files, offsets)


def _gather_part(
    files: Files, slicing: Slicing, shapes: Integers, numbers: Integers, offsets: Integers
) -> Codes:
    """A range of frames of some views: one gather for each view."""
    ranges = {frames: range(frames)[slicing.frames] for frames in np.unique(shapes[:, 1]).tolist()}
    counts = {len(found) for found in ranges.values()}
    views = [slicing.views if slicing.views is not None else tuple(range(v)) for v in shapes[:, 0]]
    grids = {tuple(grid) for grid in shapes[:, 2:].tolist()}
    if len(counts) > 1 or len(grids) > 1 or len(set(views)) > 1:
        raise UserError(_differ(np.unique(shapes, axis=0).tolist()))
    if not all(-v <= view < v for v in np.unique(shapes[:, 0]) for view in views[0]):
        raise UserError(f"views {list(views[0])} are asked of samples with {shapes[0, 0]} views.")
    (grid,), (count,) = grids, counts
    first = np.array([ranges[frames].start for frames in shapes[:, 1].tolist()], np.int64)
    out = np.empty((len(numbers), len(views[0]), count, *grid), "<u2")
    for i, view in enumerate(views[0] if count else ()):
        number = view % shapes[:, 0]
        skipped = (number * shapes[:, 1] + first) * 2 * int(np.prod(grid))
        out[:, i] = _read(files, numbers, offsets + skipped, (count, *grid))
    return out


def _read_pictures(
    files: Files, numbers: Integers, offsets: Integers, pictures: Integers, shapes: Integers
) -> Codes:
    """Pictures that lie apart, all with one gather."""
    if not (shapes == shapes[0]).all():
        raise UserError(_differ(np.unique(shapes, axis=0).tolist()))
    places = offsets[:, None] + pictures
    every = np.broadcast_to(numbers[:, None], places.shape)
    shape = tuple(shapes[0].tolist())
    read = files.gather(every.ravel(), places.ravel(), 2 * math.prod(shape[2:]))
    return read.view("<u2").reshape(len(numbers), *shape)


def _read(files: Files, numbers: Integers, offsets: Integers, shape: tuple[int, ...]) -> Codes:
    got = files.gather(numbers, offsets, 2 * math.prod(shape))
    return got.view("<u2").reshape(len(numbers), *shape)


def _buffer(shape: tuple[int, ...], pin: bool) -> tuple[Codes, Any]:
    """An empty batch of codes, and the torch tensor over the same memory where it is pinned."""
    if not pin:
        return np.empty(shape, np.uint16), None
    import torch

    tensor = torch.empty(shape, dtype=torch.uint16, pin_memory=True)
    return tensor.numpy(), tensor


def _column(name: str, shard: OpenShard, rows: Integers, slicing: Slicing) -> Any:
    if name == "caption":
        return shard.captions(rows)
    if name == "clip_id":
        return shard.keys(rows)
    values = np.empty(len(rows), object)
    if name in FACTS:
        values[:] = [shard.fact(name, row) for row in rows.tolist()]
        return values
    for i, row in enumerate(rows.tolist()):
        if name == "meta":
            values[i] = shard.meta(row)
        else:
            array = shard.array(row, name)
            values[i] = None if array is None else array[slicing.frames]
    return values


def _stack(name: str, column: npt.NDArray[np.object_]) -> npt.NDArray[np.float32]:
    shapes = {None if array is None else array.shape for array in column}
    if len(shapes) > 1 or None in shapes:
        raise UserError(
            f"the samples of a batch hold {name!r} of the shapes {sorted(map(str, shapes))}, "
            "expected one shape and none without it; read a range of frames, or leave the field out"
        )
    return np.stack(list(column))


def _differ(shapes: Sequence[Any]) -> str:
    return (
        f"a batch holds codes of the shapes {', '.join(str(list(s)) for s in shapes)}, expected "
        "one; choose `views` and a range of `frames` that all samples have, or batches of one."
    )


def _check(
    source: Stream, batch_size: int, rank: int, world_size: int, fields: Sequence[str]
) -> None:
    if batch_size < 1 or batch_size % world_size or not len(source):
        raise UserError(
            f"a batch of {batch_size} from {len(source)} samples of {source.path}/{source.split} "
            f"cannot be split over {world_size} ranks; the batch must be a multiple of the ranks "
            "and the split must not be empty."
        )
    if not 0 <= rank < world_size:
        raise UserError(f"rank {rank} of {world_size} does not exist; ranks count from 0.")
    if unknown := set(fields) - set(ALL_FIELDS):
        raise UserError(f"unknown fields {sorted(unknown)}; choose from {', '.join(ALL_FIELDS)}.")
