"""Pack: token shards of the kept clips, with their captions and codes.

Samples are ordered by (bucket, video, time), so the shards depend neither on the order of the input
nor on the workers; every shard can be written by itself.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handloom.errors import RunError, UserError
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.episodes.rows import EpisodeRow
from handloom.stages.hands.rows import Framing
from handloom.stages.stage import clip_order
from handloom.stages.tables.columns import frequencies, numbered
from handloom.stages.tables.outcomes import all_outcomes, outcomes
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip, EpisodeClip, Row
from handloom.stages.tokens import TokenRow
from handloom.tokenize.shards import SPLITS, Layout, Sample, ShardInfo, shard_path, write_shard

R = TypeVar("R", bound=Row)


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


def check_licences(licences: Iterable[str], allowed: tuple[str, ...]) -> None:
    """Refuse licence classes that are not allowed, and mixtures that are not asked for.

    Raises:
        UserError: names the classes and the option.
    """
    classes = sorted(set(licences))
    refused = [name for name in classes if name not in allowed] if allowed else classes[1:]
    if refused:
        permitted = ", ".join(allowed) if allowed else "a single class"
        raise UserError(
            f"the clips carry the licence classes {', '.join(classes)}, expected {permitted}; if "
            f"you may use them together, say so with --pack.licences {' '.join(classes)}"
        )


@dataclass(frozen=True)
class ShardPlan:
    """Contents of one shard: samples `skip` to `skip + count` of the buckets, in order."""

    split: str
    number: int
    buckets: tuple[str, ...]
    skip: int
    count: int
    layout: Layout = "samples"


def plan_shards(tables: Tables, pack: Pack) -> list[ShardPlan]:
    """Plan all shards. Raises RunError where a video is in both splits."""
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
    return [plan for split in SPLITS for plan in _plan_split(split, counts[split], pack)]


def write_planned(tables: Tables, plan: ShardPlan, root: Path) -> ShardInfo:
    """Write one shard and its index."""
    samples = (s for bucket in plan.buckets for s in _samples(tables, bucket, plan.split))
    part = islice(samples, plan.skip, plan.skip + plan.count)
    return write_shard(shard_path(root, plan.split, plan.number), part, plan.layout)


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


def _plan_split(split: str, counts: dict[str, int], pack: Pack) -> Iterator[ShardPlan]:
    per_shard = pack.samples_per_shard
    buckets = sorted(counts)
    ends = np.cumsum([counts[bucket] for bucket in buckets])
    total = int(ends[-1]) if buckets else 0
    for number, start in enumerate(range(0, total, per_shard)):
        stop = min(start + per_shard, total)
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        before = int(ends[first - 1]) if first else 0
        spanned = tuple(buckets[first : last + 1])
        yield ShardPlan(split, number, spanned, start - before, stop - start, pack.layout)


def _samples(tables: Tables, bucket: str, split: str) -> Iterator[Sample]:
    episodes = _episodes(tables, bucket) if "episodes" in tables else {}
    captions = _by_id(tables, "caption", CaptionRow, bucket)
    tokens = _by_id(tables, "tokens", TokenRow, bucket)
    framings = _by_id(tables, "hands", Framing, bucket) if "hands" in tables else {}
    for clip in kept_clips(tables, bucket):
        if clip.split == split:
            sample = _sample(clip, captions[clip.clip_id], tokens[clip.clip_id])
            if framing := framings.get(clip.clip_id):
                sample = replace(sample, meta=sample.meta | _visible(framing))
            place_and_row = episodes.get(clip.clip_id)
            yield _with_trajectory(sample, *place_and_row) if place_and_row else sample


def _sample(clip: Clip, caption: CaptionRow, tokens: TokenRow) -> Sample:
    codes_vtij = np.frombuffer(tokens.codes, "<u2").reshape(tokens.shape).astype(np.uint16)
    return Sample(clip.clip_id, codes_vtij, _metadata(clip, caption, tokens))


def _by_id(tables: Tables, stage: str, row_type: type[R], bucket: str) -> dict[str, R]:
    return {row.clip_id: row for row in tables[stage].read(row_type, bucket)}


def _visible(framing: Framing) -> dict[str, Any]:
    """The part of the clip in its codes: its longest shot, without bars."""
    span = {"start_s": framing.shot_start_s, "end_s": framing.shot_end_s}
    whole = framing.picture_xyxy == [0.0, 0.0, 1.0, 1.0]
    return span if whole else span | {"picture_xyxy": framing.picture_xyxy}


def _episodes(tables: Tables, bucket: str) -> dict[str, tuple[EpisodeClip, EpisodeRow]]:
    rows = _by_id(tables, "episodes", EpisodeRow, bucket)
    clips = tables["ingest"].read(EpisodeClip, bucket)
    return {clip.clip_id: (clip, rows[clip.clip_id]) for clip in clips if clip.clip_id in rows}


def _with_trajectory(sample: Sample, clip: EpisodeClip, row: EpisodeRow) -> Sample:
    meta = {
        "views": clip.views,
        "fps": row.hz,
        "source_hz": clip.hz,
        "action_kind": clip.action_kind,
        "idle_steps": np.flatnonzero(row.idle).tolist(),
        "success": clip.success,
        "unit": clip.unit,
        "facts": clip.facts,
    }
    arrays = {
        "state": np.asarray(row.state, np.float32),
        "action": np.asarray(row.action, np.float32),
    }
    return replace(sample, meta=sample.meta | meta, arrays=arrays)


def _metadata(clip: Clip, caption: CaptionRow, tokens: TokenRow) -> dict[str, Any]:
    """The sample's provenance; docs/shard-format.md shows the fields."""
    return {
        "caption": caption.caption,
        "caption_source": caption.source,
        "caption_flags": caption.flags,
        "text": clip.text,
        "text_kind": clip.text_kind,
        "dataset": clip.dataset,
        "version": clip.version,
        "split": clip.split,
        "licence": clip.licence,
        "source_id": clip.video_id,
        "annotation_id": clip.annotation_id,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "fps": clip.fps,
        "frame_times_s": tokens.times_s,
        "views": ["main"],
    }
