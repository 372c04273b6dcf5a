"""The `duplicates` stage: clips of nearly the same footage, within the run and in other runs.

Nothing is dropped here: `select` compares the similarities with its threshold. Of two
near-duplicates the better one is to be kept: one of another run before one of this run, a held-out
one before one of train, then the one with more pixels, then the one with the smaller id.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handloom.places import place
from handloom.stages.duplicates.candidates import ClipFrames, near_duplicates
from handloom.stages.duplicates.fingerprints import BYTES
from handloom.stages.duplicates.rows import DuplicateRow, Match
from handloom.stages.stage import TableStage
from handloom.stages.tables.columns import bucket_groups, by_bucket, matched
from handloom.stages.tables.outcomes import passed
from handloom.stages.tables.parts import Tables, open_tables
from handloom.stages.tables.rows import Row

MATCHES_KEPT = 8  # most similar clips listed in a row: a title card may match thousands
HAND_COLUMNS = ("clip_id", "status", "times_s", "fingerprints")
CLIP_COLUMNS = ("clip_id", "bucket", "dataset", "video_id", "split", "width", "height")


@dataclass(frozen=True)
class RankedClip:
    """A clip with what decides whether it is better than a near-duplicate."""

    frames: ClipFrames
    bucket: str
    dataset: str
    split: str
    pixels: int
    other_run: bool  # it belongs to another run, whose shards are written already

    @property
    def clip_id(self) -> str:
        """Id of the clip."""
        return self.frames.clip_id

    @property
    def rank(self) -> tuple[bool, bool, int, str]:
        """Sort key: of two near-duplicates the lower one is better."""
        return not self.other_run, self.split == "train", -self.pixels, self.clip_id


@dataclass(frozen=True)
class Duplicates(TableStage):
    """The `duplicates` stage and its options."""

    name: ClassVar[str] = "duplicates"
    code_version: ClassVar[int] = 2
    row_type: ClassVar[type[Row]] = DuplicateRow
    reads: ClassVar[dict[str, type[Row]]] = {"hands": Row}

    min_similarity: float = 0.3
    """Pairs of clips with a lower similarity, 0 to 1, are not stored."""
    against: tuple[Path, ...] = ()
    """Output folders of other runs: clips like those that they kept count as duplicates here."""

    def settings(self) -> dict[str, Any]:
        """The options; another run counts by the state of its `select` table, not by its path."""
        states = [open_tables(place(out))["select"].state() for out in self.against]
        return super().settings() | {"against": states}

    def rows(self, tables: Tables) -> Iterator[tuple[str, pa.Table]]:
        """Rows of all clips of this run, bucket by bucket, after comparing each with each other."""
        own = list(_read_clips(tables, other_run=False))
        others = (
            c for out in self.against for c in _read_clips(open_tables(place(out)), other_run=True)
        )
        every = {clip.clip_id: clip for clip in (*others, *own)}  # this run's own clips win
        matches: dict[str, list[Match]] = defaultdict(list)
        pairs = near_duplicates([clip.frames for clip in every.values()], self.min_similarity)
        for pair in pairs:
            one, two = every[pair.clip_id], every[pair.other_id]
            matches[one.clip_id].append(make_match(one, two, pair.similarity))
            matches[two.clip_id].append(make_match(two, one, pair.similarity))
        if own:
            rows = [duplicate_row(clip, matches.get(clip.clip_id, [])) for clip in own]
            yield from by_bucket(
                pa.Table.from_pylist(rows), pa.chunked_array([[c.bucket for c in own]])
            )


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
    """A row of the `duplicates` table.

    A leak is a pair of a clip of train and a held-out one. The one of train goes; where that is of
    another run, whose shards are written, the held-out one of this run goes.
    """
    better = [m for m in matches if m["better"]]
    across = [m for m in better if (m["split"] == "train") != (clip.split == "train")]
    return {
        "clip_id": clip.clip_id,
        "status": "ok",
        "similarity": max((m["similarity"] for m in better), default=0.0),
        "leak_similarity": max((m["similarity"] for m in across), default=0.0),
        "matches": sorted(matches, key=lambda m: (-m["similarity"], m["clip_id"]))[:MATCHES_KEPT],
    }


def _read_clips(tables: Tables, other_run: bool) -> Iterator[RankedClip]:
    """The clips of a run that `hands` decoded; of another run those that `select` kept."""
    for buckets in bucket_groups(tables["hands"]):
        if other_run:
            hands = tables["hands"].columns(HAND_COLUMNS, buckets)
            selected = tables["select"].columns(["clip_id", "status"], buckets)
            kept = selected.filter(pc.equal(selected["status"], "ok"))["clip_id"]
            hands = hands.filter(pc.is_in(hands["clip_id"], value_set=kept))
        else:
            hands = passed(tables, "hands", buckets, HAND_COLUMNS)
        clips = matched(hands, tables["ingest"].columns(CLIP_COLUMNS, buckets))
        for hand_row, clip_row in zip(hands.to_pylist(), clips.to_pylist(), strict=True):
            frames = ClipFrames(
                hand_row["clip_id"],
                f"{clip_row['dataset']}/{clip_row['video_id']}",
                np.asarray(hand_row["times_s"], np.float64),
                np.frombuffer(hand_row["fingerprints"], np.uint8).reshape(-1, BYTES),
            )
            pixels = clip_row["width"] * clip_row["height"]
            yield RankedClip(
                frames,
                clip_row["bucket"],
                clip_row["dataset"],
                clip_row["split"],
                pixels,
                other_run,
            )
