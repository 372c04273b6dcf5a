"""Windows of robot episodes: a few frames up to now, the frame to come, and the next actions.

Which windows make a batch is a function of (seed, position), as with `ShardDataset.batches`.
Shapes: B windows, h frames given, F = h + 1 with the frame to predict, V views of the model, R rows
and C columns of codes, S and A numbers of a state and an action, k actions of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from handloom.errors import UserError
from handloom.tokenize.shards import Mixture, ShardDataset
from handloom.tokenize.shards.batches import groups
from handloom.tokenize.shards.order import order
from handloom.train.finetune.windows.episodes import Episodes, Integers
from handloom.train.finetune.windows.folder import Columns, FolderWindows, WindowOptions
from handloom.train.finetune.windows.subsets import PerTask

if TYPE_CHECKING:
    from handloom.train.finetune.space import Space

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class WindowBatch:
    """B windows, each at a step t of its episode.

    Frames stand at t - (h - 1) stride … t, t + stride. In front of an episode's start and behind
    its end its first or last step is repeated.
    """

    codes: npt.NDArray[np.uint16]
    """[B, F, V, R, C]; where not `visible` the nearest frame, or 0 for a view that is not there."""
    visible: Bools
    """[B, F, V]: False before the start, behind the end, and for a view that the episode lacks."""
    state: Floats
    """[B, h, S], physical units."""
    state_known: Bools
    """[B, h]: False before the start."""
    action: Floats
    """[B, k, A], physical units, of steps t … t + k - 1."""
    action_valid: Bools
    """[B, k]: False behind the end and where the arm is not commanded."""
    caption: list[str]
    dataset: list[str]
    task: list[str]
    """The dataset's own name of the task, else the caption."""
    clip_id: list[str]
    step: Integers
    """t, [B]"""
    number: Integers
    """[B]; `windows.read(number)` gives the same windows again."""
    position: int
    """Windows that all ranks together have consumed after this batch."""


class Windows:
    """A window for each step of each episode whose chunk holds an action that is not idle.

    In memory are a few integers an episode. Windows are numbered through the folders in turn;
    batches mix the folders by weight.

    Args:
        datasets: robot episodes, each folder once.
        space: that all of them must be of.
        options: what a window covers.
        views: names of the model's views, in order; by default all that the manifests name. Those
            of an episode are found by name. Episodes with none of them are left out.
        weights: of the folders; where there is none, how many windows the folder has.
        per_task: only so many episodes of each task, over all folders (`PerTask`).
        subset_seed: seed of that choice.

    Attributes:
        views: as above.
        weights: of the folders that have windows; one of `val` may have none.
        grid: rows and columns of a picture's codes.
        episodes: number of those that give windows.
        without_views: number of those left out because they have none of the views.
        manifest: of the first folder, whose tokenizer is that of all.

    Raises:
        UserError: an unknown view, a folder named twice, no window, folders with pictures of
            different sizes or other tokenizers, or an episode that `Episodes` refuses.
    """

    def __init__(
        self,
        datasets: Sequence[ShardDataset],
        space: Space,
        options: WindowOptions,
        views: Sequence[str] = (),
        weights: Sequence[float | None] | None = None,
        per_task: int | None = None,
        subset_seed: int = 0,
    ) -> None:
        self.space, self.options, self.manifest = space, options, datasets[0].manifest
        self.views = _views(datasets, views)
        self._subset = None if per_task is None else PerTask(per_task, subset_seed)
        opened = [Episodes(data, space) for data in datasets]
        kept = [source.have_any(self.views) for source in opened]
        self.without_views = sum(int((~have).sum()) for have in kept)
        if self._subset:
            kept = _chosen(opened, kept, self._subset)
        pairs = zip(opened, kept, strict=True)
        found = [FolderWindows(*pair, options, self.views) for pair in pairs]
        self._folders, self.weights = _with_windows(found, weights or [None] * len(found))
        data = {str(folder.episodes.data.path): folder.episodes.data for folder in self._folders}
        self._mixture = Mixture(data, dict(zip(data, self.weights, strict=True)))
        self._starts = np.cumsum([0, *map(len, self._folders)])
        self.grid = self._folders[0].episodes.grid
        self.episodes = sum(folder.used for folder in self._folders)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def captions(self) -> set[str]:
        """Instructions of the episodes that give windows."""
        return set().union(*(folder.captions() for folder in self._folders))

    def fingerprint(self) -> list[str]:
        """Everything that the order and the content of the batches depend on."""
        shards = [shard for folder in self._folders for shard in folder.shards()]
        weights = " : ".join(f"{weight:g}" for weight in self.weights)
        return [*shards, weights, str(self.options), *self.views, str(self._subset or "all")]

    def batches(
        self, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Iterator[WindowBatch]:
        """Endless batches whose content depends on (seed, position) alone.

        Args:
            batch_size: windows a step over all ranks; each rank gets an equal contiguous part.
            seed: of the order. Every epoch of a folder holds each of its windows once.
            rank: of this process.
            world_size: number of processes.
            start: windows that all ranks together have consumed before.

        Raises:
            UserError: the ranks do not divide the batch, or there is no such rank.
        """
        share = batch_size // world_size
        if batch_size < 1 or batch_size % world_size or not 0 <= rank < world_size:
            raise UserError(
                f"a batch of {batch_size} windows cannot be split for rank {rank} of {world_size}; "
                "give a multiple of the ranks, which count from 0."
            )
        while True:
            positions = start + rank * share + np.arange(share)
            start += batch_size
            yield self._read(*self._places(positions, seed), position=start)

    def read(self, numbers: Integers) -> WindowBatch:
        """Windows by their numbers, int64 [B]; `position` is B."""
        folders = np.searchsorted(self._starts, numbers, side="right") - 1
        return self._read(folders, numbers - self._starts[folders], position=len(numbers))

    def _places(self, positions: Integers, seed: int) -> tuple[Integers, Integers]:
        """Folder, and number there, of the windows at positions of the endless stream."""
        folders, before = self._mixture.places(positions, seed)
        numbers = np.empty_like(before)
        for folder, here in groups(folders):
            numbers[here] = order(before[here], len(self._folders[folder]), seed)
        return folders, numbers

    def _read(self, folders: Integers, numbers: Integers, position: int) -> WindowBatch:
        every = self._starts[folders] + numbers
        parts = [(here, self._folders[i].read(numbers[here])) for i, here in groups(folders)]
        columns = {name: _scatter(name, parts, len(numbers)) for name in parts[0][1]}
        lists = {name: c.tolist() for name, c in columns.items() if c.dtype == object}
        return WindowBatch(**columns | lists, number=every, position=position)


def _views(datasets: Sequence[ShardDataset], wanted: Sequence[str]) -> tuple[str, ...]:
    """The model's views: those wanted, or all that there are."""
    named = [data.manifest.get("trajectories", {}).get("views", []) for data in datasets]
    there = tuple(dict.fromkeys(view for views in named for view in views))
    unknown = [view for view in wanted if view not in there]
    if unknown or len(set(wanted)) < len(wanted) or not there:
        raise UserError(
            f"the views asked for are {', '.join(wanted) or 'all'}, those of the episodes are "
            f"{', '.join(there) or 'none'}; name some of these, each once."
        )
    return tuple(wanted) or there


def _chosen(opened: Sequence[Episodes], kept: Sequence[Bools], part: PerTask) -> list[Bools]:
    """Mask of the kept episodes that belong to the subset."""
    tasks, clip_ids = list[str](), list[str]()
    for source in opened:
        for names, found in zip((tasks, clip_ids), source.tasks(), strict=True):
            names += found
    every = np.concatenate(kept)
    here = np.flatnonzero(every)
    every[here] = part.choose([tasks[i] for i in here], [clip_ids[i] for i in here])
    return np.split(every, np.cumsum([len(source) for source in opened])[:-1])


def _with_windows(
    folders: Sequence[FolderWindows], weights: Sequence[float | None]
) -> tuple[list[FolderWindows], list[float]]:
    """The folders that have windows, and their weights; of train, all must have some."""
    places = [folder.episodes.where for folder in folders]
    if len(set(places)) < len(places) or len(weights) != len(places):
        raise UserError(
            f"the folders are {', '.join(places)} with {len(weights)} weights; name each once, "
            "with one weight."
        )
    full = [i for i, folder in enumerate(folders) if len(folder)]
    empty = [where for where, folder in zip(places, folders, strict=True) if not len(folder)]
    if not full or (empty and folders[0].episodes.data.split == "train"):
        raise UserError(
            f"{', '.join(empty)} holds no window: no episode with one of the views and a step at "
            "which the arm is commanded; name other views or folders, or curate more episodes."
        )
    if len({folders[i].episodes.grid for i in full}) > 1:
        grids = [f"{places[i]}: {folders[i].episodes.grid}" for i in full]
        raise UserError(
            f"the folders have pictures of different sizes in codes ({'; '.join(grids)}) and one "
            "model takes one; curate all with the same --tokens options."
        )
    chosen = [weights[i] for i in full]
    sizes = [len(folders[i]) for i in full]
    shares = [float(size if w is None else w) for w, size in zip(chosen, sizes, strict=True)]
    return [folders[i] for i in full], shares


def _scatter(name: str, parts: Sequence[tuple[Integers, Columns]], count: int) -> npt.NDArray[Any]:
    """One column of a batch, its windows from several folders at their places."""
    first = parts[0][1][name]
    if len(parts) == 1:
        return first
    out = np.empty((count, *first.shape[1:]), first.dtype)
    for here, columns in parts:
        out[here] = columns[name]
    return out
