"""Duplicates: which clips show nearly the same footage, within the run and in other runs.

Nothing is decided here: `select` compares the similarities with its threshold. Of two clips one is
the one to keep: one of another run before one of this run, a held-out one before one of train, then
the larger picture, then the smaller id.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handloom.stages.duplicates.candidates import ClipFrames, near_duplicates
from handloom.stages.duplicates.fingerprints import BYTES
from handloom.stages.duplicates.rows import DuplicateRow, Match
from handloom.stages.stage import TableStage
from handloom.stages.tables.columns import (
    bucket_groups,
    by_bucket,
    matched,
)
from handloom.stages.tables.parts import Tables, open_tables
from handloom.stages.tables.rows import Row

MATCHES_KEPT = 8  # of a clip, the most similar: a title card may have thousands
HAND_COLUMNS = ("clip_id", "status", "times_s", "fingerprints")
CLIP_COLUMNS = ("clip_id", "bucket", "dataset", "video_id", "split", "width", "height")


@dataclass(frozen=True)
class Listed:
    """A clip with what decides which of two is kept."""

    frames: ClipFrames
    bucket: str
    dataset: str
    split: str
    pixels: int
    foreign: bool

    @property
    def clip_id(self) -> str:
        """The clip's id."""
        return self.frames.clip_id

    @property
    def rank(self) -> tuple[bool, bool, int, str]:
        """The lower one of two is kept."""
        return not self.foreign, self.split == "train", -self.pixels, self.clip_id


@dataclass(frozen=True)
class Duplicates(TableStage):
    """Options of `duplicates`."""

    name: ClassVar[str] = "duplicates"
    code_version: ClassVar[int] = 2
    row_type: ClassVar[type[Row]] = DuplicateRow
    reads: ClassVar[dict[str, type[Row]]] = {"hands": Row}

    min_similarity: float = 0.3
    """Pairs that are less alike are not stored."""
    against: tuple[Path, ...] = ()
    """Output folders of other runs: clips like those that they kept count as duplicates here."""

    def settings(self) -> dict[str, Any]:
        """The options; other runs count by what they kept, not by where they lie."""
        states = [open_tables(Path(out))["select"].state() for out in self.against]
        return super().settings() | {"against": states}

    def rows(self, tables: Tables) -> Iterator[tuple[str, pa.Table]]:
        """Compare all clips with each other."""
        own = list(_listed(tables, foreign=False))
        ids = {clip.clip_id for clip in own}
        others = (c for out in self.against for c in _listed(open_tables(Path(out)), foreign=True))
        every = {clip.clip_id: clip for clip in own}
        every |= {clip.clip_id: clip for clip in others if clip.clip_id not in ids}
        found: dict[str, list[Match]] = defaultdict(list)
        pairs = near_duplicates([clip.frames for clip in every.values()], self.min_similarity)
        for pair in pairs:
            one, two = every[pair.clip_id], every[pair.other_id]
            found[one.clip_id].append(match(one, two, pair.similarity))
            found[two.clip_id].append(match(two, one, pair.similarity))
        if own:
            rows = [row_of(clip, found.get(clip.clip_id, [])) for clip in own]
            yield from by_bucket(
                pa.Table.from_pylist(rows), pa.chunked_array([[c.bucket for c in own]])
            )


def match(clip: Listed, other: Listed, similarity: float) -> Match:
    """What a clip's row says of another one."""
    return Match(
        clip_id=other.clip_id,
        dataset=other.dataset,
        split=other.split,
        similarity=similarity,
        better=other.rank < clip.rank,
    )


def row_of(clip: Listed, matches: list[Match]) -> dict[str, Any]:
    """A clip's row.

    A leak is a pair of one clip of train and one held out. The one of train goes; where that is of
    another run, whose shards are written, the held-out one of this run.
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


def _listed(tables: Tables, foreign: bool) -> Iterator[Listed]:
    """The clips of a run whose frames were seen; of another run those that it kept."""
    for buckets in bucket_groups(tables["hands"]):
        hands = tables["hands"].columns(HAND_COLUMNS, buckets)
        hands = hands.filter(pc.equal(hands["status"], "ok"))
        if foreign:
            decided = tables["select"].columns(["clip_id", "status"], buckets)
            kept = decided.filter(pc.equal(decided["status"], "ok"))["clip_id"]
            hands = hands.filter(pc.is_in(hands["clip_id"], value_set=kept))
        clips = matched(hands, tables["ingest"].columns(CLIP_COLUMNS, buckets))
        for seen, clip in zip(hands.to_pylist(), clips.to_pylist(), strict=True):
            frames = ClipFrames(
                seen["clip_id"],
                f"{clip['dataset']}/{clip['video_id']}",
                np.asarray(seen["times_s"], np.float64),
                np.frombuffer(seen["fingerprints"], np.uint8).reshape(-1, BYTES),
            )
            pixels = clip["width"] * clip["height"]
            yield Listed(frames, clip["bucket"], clip["dataset"], clip["split"], pixels, foreign)
