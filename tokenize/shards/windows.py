"""Windows of clips and robot episodes of any length: a fixed number of frames, of any views.

    windows = ClipWindows(ShardDataset("runs/rt1/shards"), Cut(frames=5, spacing_s=0.5))
    for batch in windows.batches(256, seed=0):   # as of a ShardDataset; also inside a Mixture
        batch["tokens"]                           # uint16 [B, V, F, I, J]

Windows are numbered clip after clip, in a clip view after view, then by their first picture. The
clip of a window is found by one search, so that the order of a ShardDataset is that of windows too:
every epoch holds each once.

Shapes: N clips, B windows, V views and F frames of a window, I rows and J columns of codes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from handloom.errors import UserError
from handloom.tokenize.shards.batches import Selection, Slicing, Stream
from handloom.tokenize.shards.dataset import ShardDataset
from handloom.tokenize.shards.format import ARRAYS, Integers
from handloom.tokenize.shards.order import order
from handloom.tokenize.shards.pace import Paces
from handloom.tokenize.shards.window_scan import Cut, Views, scan


class ClipWindows(Stream):
    """The windows of one split, read like a ShardDataset.

    Where each clip is one window, window i is clip i and nothing is held. Else there are 14 bytes a
    clip in memory. Opening reads all indexes, and the metadata of robot episodes.

    Args:
        data: whole clips: neither views nor frames are left out.
        cut: of the windows.

    Attributes:
        counts: of clips and windows.
        whole: True where each clip is one window of all its frames.
        views: names of the views in the shards, in the order in which they come.
        grids: sizes (rows, columns) of pictures in codes; batches need a single one.

    Raises:
        UserError: a clip's views and codes do not fit each other.
    """

    def __init__(self, data: ShardDataset, cut: Cut) -> None:
        assert data.slicing.everything  # places of pictures are counted from whole clips
        self.data, self.cut = data, cut
        self.path, self.split, self.manifest = data.path, data.split, data.manifest
        self.files, self.slicing = data.files, Slicing(None, slice(None))
        self._scan = found = scan(data, cut)
        self.counts, self.whole, self.grids = found.counts, found.whole, found.grids
        self._labels: list[Views] = list(found.labels)
        self.views = tuple(dict.fromkeys(name for names in self._labels for name in names))
        self._paces = Paces(list(found.paces), cut.frames)
        self._choices = [cut.choices(names) for names in self._labels]
        self._ways = np.array([len(views) for views in self._choices], np.int64)
        self._table = self._views_of_choices()

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipWindows, (self.data, self.cut)

    def __len__(self) -> int:
        return self.counts.windows

    @property
    def spacing_s(self) -> float | None:
        """Seconds from frame to frame; None where the clips' own times say it."""
        return next(iter(self._paces.spacing_s), None)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Window i as `ShardDataset` gives a clip, without state and action.

        `frame_times_s` and `views` are those of the window; `spacing_s` is there where frames are
        taken at a spacing.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"window {i} of {len(self)}")
        if self.whole:
            return self.data[i]
        clip, views, frames = self._parts(np.array([i % len(self)]))
        number = int(clip[0])
        sample = self._with_spacing(self.data[number], number)
        for name in ARRAYS:
            sample.pop(name, None)
        sample["tokens"] = sample["tokens"][views[0]][:, frames[0]]
        names = self._labels[self._scan.label[number]]
        sample["views"] = [names[view] for view in views[0].tolist()]
        if times_s := sample.get("frame_times_s"):
            sample["frame_times_s"] = [times_s[frame] for frame in frames[0].tolist()]
        return sample

    def of_clip(self, clip: int) -> range:
        """Numbers of the windows of a clip of `data`."""
        if self.whole:
            return range(clip, clip + 1)
        return range(*self._scan.starts[clip : clip + 2].tolist())

    def select(self, positions: Integers, seed: int, fields: Sequence[str]) -> Selection:
        """Find the windows at positions of the endless stream, without reading their codes."""
        return self.find(order(positions, len(self), seed), fields)

    def find(self, indices: Integers, fields: Sequence[str]) -> Selection:
        """Find windows by their numbers, int64 [B], without reading their codes.

        `meta` is that of the clip, with `spacing_s` where frames are taken at a spacing.
        """
        if self.whole:
            return self.data.find(indices, fields)
        if arrays := set(fields) & set(ARRAYS):
            raise UserError(f"windows of clips hold no {', '.join(sorted(arrays))}; leave it out.")
        clip, views, frames = self._parts(indices)
        found = self.data.find(clip, fields)
        offsets = picture_offsets(found.shapes, views, frames).reshape(len(clip), -1)
        found.offsets += offsets[:, 0]
        found.shapes[:, 0], found.shapes[:, 1] = views.shape[1], frames.shape[1]
        found.datasets = (self,)
        if views.shape[1] > 1 or not self._paces.consecutive:
            found.pictures = offsets - offsets[:, :1]
        if "meta" in fields:
            pairs = zip(found.columns["meta"], clip.tolist(), strict=True)
            found.columns["meta"][:] = [self._with_spacing(meta, number) for meta, number in pairs]
        if "spacing_s" in fields:
            cut_s = (self._paces.spacing_s[pace] for pace in self._scan.pace[clip].tolist())
            pairs = zip(found.columns["spacing_s"], cut_s, strict=True)
            found.columns["spacing_s"][:] = [own if s is None else s for own, s in pairs]
        return found

    def _parts(self, indices: Integers) -> tuple[Integers, Integers, Integers]:
        """Clip [B], views [B, V] and stored frames [B, F] of windows."""
        starts, label = self._scan.starts, self._scan.label
        clip = np.searchsorted(starts, indices, side="right") - 1
        of_view = (starts[clip + 1] - starts[clip]) // self._ways[label[clip]]
        choice, first = np.divmod(indices - starts[clip], of_view)
        frames = self._paces.frames(self._scan.pace[clip].astype(np.int64), first)
        return clip, self._table[label[clip], choice], frames

    def _views_of_choices(self) -> Integers:
        """Numbers of the views of each choice of each label, int64 [labels, choices, V]."""
        width = len(self.cut.views) if self.cut.joint else 1
        most = int(self._ways.max(initial=0))
        table = np.zeros((len(self._choices), most, width), np.int64)
        for label, found in enumerate(self._choices):
            table[label, : len(found)] = np.array(found, np.int64).reshape(-1, width)
        return table

    def _with_spacing(self, meta: dict[str, Any], clip: int) -> dict[str, Any]:
        spacing_s = self._paces.spacing_s[self._scan.pace[clip]]
        return meta if spacing_s is None else meta | {"spacing_s": spacing_s}


def picture_offsets(shapes: Integers, views: Integers, frames: Integers) -> Integers:
    """Bytes from the first code of clips to the first code of some of their pictures.

    Args:
        shapes: of the clips' codes, int64 [B, 4].
        views: numbers of the views of each clip, int64 [B, V].
        frames: numbers of its frames, int64 [B, F].

    Returns:
        int64 [B, V, F].
    """
    _, steps, rows, columns = shapes.T
    pictures = views[:, :, None] * steps[:, None, None] + frames[:, None, :]
    offsets: Integers = (2 * rows * columns)[:, None, None] * pictures
    return offsets
