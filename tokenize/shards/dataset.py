"""Reading shards: random access, and endless batches whose order is a function of (seed, position).

Finding a sample takes no parsing and no search but one over the shards, so that a batch is one
gather out of memory maps. `batches.py` turns positions into batches.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from handloom.errors import UserError
from handloom.tokenize.shards.batches import Selection, Slicing, Stream, groups
from handloom.tokenize.shards.files import Files, LocalFiles
from handloom.tokenize.shards.format import ARRAYS, Integers
from handloom.tokenize.shards.manifest import read_manifest
from handloom.tokenize.shards.open import OpenShard, open_shard
from handloom.tokenize.shards.order import order
from handloom.tokenize.shards.remote import RemoteFiles, RemoteFolder, is_remote


class ShardDataset(Stream):
    """Random access and deterministic batches over the shards of one split.

    It can be pickled: the copy opens the files itself. Shards are opened when they are first read.

    Args:
        path: folder with `manifest.json`, or its s3:// or gs:// URL.
        split: `train` or `val`.
        views: numbers of the views to read, in this order; all by default.
        frames: the frames to read, a slice of step 1; all by default. Only their bytes are touched.

    Attributes:
        files: the tars, for gathering codes from them.
        slicing: the views and frames that are read.

    Raises:
        UserError: no manifest, a newer format, an unknown split, or a missing shard.
    """

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        views: Sequence[int] | None = None,
        frames: slice = slice(None),
    ) -> None:
        self.path: str | Path = path if is_remote(path) else Path(path)
        self.split = split
        self.manifest = read_manifest(self.path)
        if split not in self.manifest["splits"]:
            raise UserError(
                f"{path} has no split {split!r}; it has {', '.join(self.manifest['splits'])}."
            )
        self.slicing = Slicing(None if views is None else tuple(views), frames)
        self._dataset = _named_dataset(self.manifest)
        self._entries = self.manifest["splits"][split]["shards"]
        counts = [entry["samples"] for entry in self._entries]
        self._starts = np.cumsum([0, *counts], dtype=np.int64)
        self.files = self._open_files()
        self._shards: dict[int, OpenShard] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardDataset, (self.path, self.split, self.slicing.views, self.slicing.frames)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Sample i: its metadata, `clip_id`, `tokens` uint16 [V, T, I, J] (a view of the file where
        it is local and `views` are not given), and `state`, `action` float32 [T, ·] if any."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        file, row = self._find(np.array([i % len(self)]))
        shard, number = self._shard(int(file[0])), int(row[0])
        offsets, shapes = shard.places(row)
        shape = shapes[0].tolist()
        codes = self.files.view(int(file[0]), int(offsets[0]), 2 * int(np.prod(shape)))
        tokens = self.slicing.of(codes.view("<u2").reshape(shape))
        sample = shard.meta(number) | {"clip_id": shard.keys(row)[0], "tokens": tokens}
        for name in ARRAYS:
            array = shard.array(number, name)
            if array is not None:
                sample[name] = array[self.slicing.frames]
        return sample

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every sample once, in the order of the shards."""
        return (self[i] for i in range(len(self)))

    def select(self, positions: Integers, seed: int, fields: Sequence[str]) -> Selection:
        """Find the samples at positions of the endless stream, without reading their codes."""
        return self.find(order(positions, len(self), seed), fields)

    def find(self, indices: Integers, fields: Sequence[str]) -> Selection:
        """Find samples by their numbers, int64 [B], without reading their codes."""
        selection = Selection.empty(len(indices), fields, (self,))
        named = selection.columns.pop("dataset", None) if self._dataset is not None else None
        files, rows = self._find(indices)
        for file, here in groups(files):
            selection.fill(here, self._shard(file), rows[here], self.slicing)
        selection.files[:] = files
        if named is not None:
            named[:] = self._dataset
            selection.columns["dataset"] = named
        return selection

    def shapes(self) -> Iterator[tuple[int, int, Integers]]:
        """Of each shard with samples: number of the first, how many, and the shapes of their codes.

        Shapes are int64 [N, 4], or [1, 4] where all are alike. All shards are opened.
        """
        for file, (start, end) in enumerate(pairwise(self._starts.tolist())):
            if end > start:
                yield start, end - start, self._shard(file).shapes()

    def _open_files(self) -> Files:
        names = [entry["name"] for entry in self._entries]
        if not is_remote(self.path):
            return LocalFiles(Path(self.path) / self.split, names)
        hashes = [entry["index_sha256"] for entry in self._entries]
        return RemoteFiles(RemoteFolder(str(self.path)).below(self.split), names, hashes)

    def _shard(self, file: int) -> OpenShard:
        if file not in self._shards:
            entry = self._entries[file]
            where = f"{self.path}/{self.split}/{entry['name']}"
            self._shards[file] = open_shard(self.files, file, where, entry["samples"])
        return self._shards[file]

    def _find(self, indices: Integers) -> tuple[Integers, Integers]:
        """The shard of each sample and its row there."""
        files = np.searchsorted(self._starts, indices, side="right") - 1
        return files, indices - self._starts[files]


def _named_dataset(manifest: dict[str, Any]) -> str | None:
    """The dataset of all samples, where the settings that `handloom curate` records name it."""
    try:
        name = manifest["config"]["ingest"]["dataset"]
    except (KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None
