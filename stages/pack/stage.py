"""Pack: token shards of the kept clips, with their captions and codes.

Samples are ordered by (bucket, video, time), so the shards depend neither on the order of the input
nor on the workers. `stretches.py` divides the work.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handloom.errors import RunError, UserError
from handloom.stages.pack.stretches import Counts
from handloom.stages.stage import clip_order
from handloom.stages.tables.columns import frequencies, numbered
from handloom.stages.tables.outcomes import all_outcomes, outcomes
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip
from handloom.tokenize.shards import SPLITS, Layout


@dataclass(frozen=True)
class Pack:
    """Options of `pack`."""

    samples_per_shard: int = 10_000
    """Samples per shard; 10,000 of 5 frames with 256 codes each are about 36 MB."""
    layout: Layout = "samples"
    """Layout of a shard: `samples`, one tar member per sample, 45 % larger than the codes; or
    `packed`, 2 % larger, for clips of one shape."""
    licences: tuple[str, ...] = ()
    """Licence classes that may go into the shards; by default any single one."""


def check_licences(
    licences: Iterable[str], allowed: tuple[str, ...], option: str = "--pack.licences"
) -> None:
    """Refuse licence classes that are not allowed, and mixtures that are not asked for.

    Args:
        licences: classes of the clips.
        allowed: what was asked for; empty for any single one.
        option: by which it is asked for.

    Raises:
        UserError: names the classes and the option.
    """
    classes = sorted(set(licences))
    refused = [name for name in classes if name not in allowed] if allowed else classes[1:]
    if refused:
        permitted = ", ".join(allowed) if allowed else "a single class"
        raise UserError(
            f"the clips carry the licence classes {', '.join(classes)}, expected {permitted}; if "
            f"you may use them together, say so with {option} {' '.join(classes)}"
        )


@dataclass(frozen=True)
class ShardPlan:
    """One shard: samples `number * samples_per_shard` and following of a split."""

    split: str
    number: int
    count: int


def plan_shards(counts: Counts, pack: Pack) -> list[ShardPlan]:
    """The shards of so many samples by split and bucket, in the order of the manifest."""
    per_shard = pack.samples_per_shard
    totals = {split: sum(counts[split].values()) for split in SPLITS}
    return [
        ShardPlan(split, number, min(per_shard, total - start))
        for split, total in totals.items()
        for number, start in enumerate(range(0, total, per_shard))
    ]


def kept_counts(tables: Tables, pack: Pack) -> dict[str, dict[str, int]]:
    """Kept clips by split and bucket.

    Raises:
        RunError: a video is in both splits.
        UserError: licences that may not go together.
    """
    counts: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    licences: set[str] = set()
    for found in all_outcomes(tables, {"ingest": ["video_id", "split", "licence"]}):
        ingest = found.stages["ingest"]
        rows = ingest.table.filter(pa.array(found.kept[ingest.clip]))
        _check_leaks(rows)
        for split, count in frequencies(rows["split"]).items():
            counts[split][found.bucket] = count
        licences.update(pc.unique(rows["licence"]).to_pylist())
    check_licences(licences, pack.licences)
    return counts


def kept_clips(tables: Tables, bucket: str) -> list[Clip]:
    """The clips of a bucket that passed every stage, in order."""
    names = [f.name for f in fields(Clip)]
    found = outcomes(tables, bucket, {"ingest": names})
    ingest = found.stages["ingest"]
    rows = ingest.table.filter(pa.array(found.kept[ingest.clip])).select(names)
    return sorted((Clip(**row) for row in rows.to_pylist()), key=clip_order)


def _check_leaks(rows: pa.Table) -> None:
    """Refuse a video in both splits. All its clips lie in one bucket, so that it shows here."""
    video, split = numbered(rows["video_id"]), numbered(rows["split"])
    first = np.zeros(len(video), np.int64)
    first[video[::-1]] = split[::-1]
    differs = first[video] != split
    if differs.any():
        name = pc.min(rows["video_id"].filter(pa.array(differs)))
        raise RunError(f"video {name} has clips in train and in val")
