"""Rows of the `duplicates` table, from the pairs that were found alike."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.files import whole
from handloom.stages.duplicates.clip_numbers import NO_CLIP, clips_of
from handloom.stages.duplicates.partitions import Ints, Records, opened, read_partition
from handloom.stages.duplicates.rows import DuplicateRow, Match
from handloom.stages.duplicates.shuffle import Shuffle
from handloom.stages.tables.columns import by_bucket
from handloom.stages.tables.rows import arrow_schema

MATCH = np.dtype([("clip", "<i4"), ("other", "<i4"), ("similarity", "<f8")])
MATCHES_KEPT = 8  # most similar clips listed in a row: a title card may match thousands
CLIP_COLUMNS = ("clip_id", "bucket", "dataset", "split", "width", "height")


@dataclass(frozen=True)
class RankedClip:
    """A clip with what decides whether it is better than a near-duplicate."""

    clip_id: str
    dataset: str
    split: str
    pixels: int
    other_run: bool  # it belongs to another run, whose shards are written already

    @property
    def rank(self) -> tuple[bool, bool, int, str]:
        """Sort key: of two near-duplicates the lower one is better."""
        return not self.other_run, self.split == "train", -self.pixels, self.clip_id


def duplicate_rows(shuffle: Shuffle) -> Iterator[tuple[str, pa.Table]]:
    """The table's rows, bucket by bucket, once all pairs are compared."""
    pairs = shuffle.paths("pairs", shuffle.clip_parts)
    for group, of_group in enumerate(shuffle.groups):
        if shuffle.sources[of_group.source].is_own:
            matches = read_partition(pairs, MATCH, group)
            matches.sort(order=["clip", "other"])
            for bucket, clips, numbers in _clips_by_bucket(shuffle, group):
                of_bucket = matches[np.isin(matches["clip"], numbers)]
                rows = _rows(shuffle, clips, numbers, of_bucket)
                yield from by_bucket(rows, pa.chunked_array([[bucket] * rows.num_rows]))


def describe(shuffle: Shuffle, group: int, wanted: Ints) -> None:
    """Write what ranks some clips of a group, which are given in the order of their numbers."""
    parts = []
    for _, clips, numbers in _clips_by_bucket(shuffle, group):
        taken = pa.array(np.isin(numbers, wanted))
        parts.append(clips.append_column("number", pa.array(numbers)).filter(taken))
    if not parts:
        return
    table = pa.concat_tables(parts).sort_by("number").combine_chunks()
    with (
        whole(shuffle.path("clips", group), sync=False) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)


def _clips_by_bucket(
    shuffle: Shuffle, group: int
) -> Iterator[tuple[str, pa.Table, npt.NDArray[np.int32]]]:
    """CLIP_COLUMNS of the clips of a group, and their numbers, by bucket."""
    numbers, rows = shuffle.numbers.rows_of(group), 0
    tables = shuffle.sources[shuffle.groups[group].source].tables
    for bucket in shuffle.groups[group].buckets:
        hands = tables["hands"].columns(["clip_id"], [bucket])
        here = numbers[rows : rows + hands.num_rows]
        rows += hands.num_rows
        hands, here = hands.filter(pa.array(here != NO_CLIP)), here[here != NO_CLIP]
        if len(here):
            yield bucket, clips_of(hands, tables["ingest"].columns(CLIP_COLUMNS, [bucket])), here


def _rows(
    shuffle: Shuffle, clips: pa.Table, numbers: npt.NDArray[np.int32], matches: Records
) -> pa.Table:
    """Rows of the clips of a bucket: most have no match."""
    others = _described(shuffle, np.unique(matches["other"]).astype(np.int64))
    of_clip: dict[int, list[tuple[RankedClip, float]]] = defaultdict(list)
    for clip, other, similarity in matches.tolist():
        of_clip[clip].append((others[other], similarity))
    similarity, leak = np.zeros(len(numbers)), np.zeros(len(numbers))
    listed: list[list[Match]] = [[] for _ in numbers]
    place = np.flatnonzero(np.isin(numbers, list(of_clip)))
    own = _ranked(clips.take(pa.array(place)), other_run=False)
    for row, clip in zip(place.tolist(), own, strict=True):
        found = [make_match(clip, *match) for match in of_clip[int(numbers[row])]]
        row_of = duplicate_row(clip, found)
        similarity[row], leak[row] = row_of["similarity"], row_of["leak_similarity"]
        listed[row] = row_of["matches"]
    columns = {
        "clip_id": clips["clip_id"],
        "status": pa.repeat(pa.scalar("ok"), len(numbers)),
        "similarity": pa.array(similarity),
        "leak_similarity": pa.array(leak),
        "matches": pa.array(listed, arrow_schema(DuplicateRow).field("matches").type),
    }
    return pa.table(columns)


def make_match(clip: RankedClip, other: RankedClip, similarity: float) -> Match:
    """The entry for `other` in the row of `clip`."""
    return Match(
        clip_id=other.clip_id,
        dataset=other.dataset,
        split=other.split,
        similarity=similarity,
        better=other.rank < clip.rank,
    )


def duplicate_row(clip: RankedClip, matches: list[Match]) -> dict[str, Any]:
    """Columns of a row of the `duplicates` table.

    A leak is a pair of a clip of train and a held-out one. The one of train goes; where that is of
    another run, whose shards are written, the held-out one of this run goes.
    """
    better = [m for m in matches if m["better"]]
    across = [m for m in better if (m["split"] == "train") != (clip.split == "train")]
    return {
        "similarity": max((m["similarity"] for m in better), default=0.0),
        "leak_similarity": max((m["similarity"] for m in across), default=0.0),
        "matches": sorted(matches, key=lambda m: (-m["similarity"], m["clip_id"]))[:MATCHES_KEPT],
    }


def _described(shuffle: Shuffle, clips: Ints) -> dict[int, RankedClip]:
    """The clips of some numbers, which `describe` has written."""
    found: dict[int, RankedClip] = {}
    homes = shuffle.numbers.home[clips]
    for group in np.unique(homes).tolist():
        table = _read_described(shuffle.path("clips", group))
        here = clips[homes == group]
        rows = table.take(pa.array(np.searchsorted(table["number"].to_numpy(), here)))
        other_run = not shuffle.sources[shuffle.groups[group].source].is_own
        found |= dict(zip(here.tolist(), _ranked(rows, other_run), strict=True))
    return found


def _read_described(path: Path) -> pa.Table:
    with opened(path), pa.memory_map(os.fspath(path)) as source, pa.ipc.open_file(source) as reader:
        return reader.read_all()


def _ranked(clips: pa.Table, other_run: bool) -> Sequence[RankedClip]:
    names = ("clip_id", "dataset", "split", "width", "height")
    return [
        RankedClip(clip_id, dataset, split, width * height, other_run)
        for clip_id, dataset, split, width, height in zip(
            *(clips[name].to_pylist() for name in names), strict=True
        )
    ]
