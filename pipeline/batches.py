"""What is left to do: a stage's inputs less what its table holds, in batches of one bucket."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from handloom.pipeline.job import Job
from handloom.stages.base import clip_order
from handloom.stages.datasets.source import SourceVideo
from handloom.stages.ingest import Ingest
from handloom.stages.records import Clip, Row
from handloom.stages.tables import Table, bucket_of

CLIPS_WAITING = 2048  # the size of a part where computing costs next to nothing


@dataclass(frozen=True)
class Batch:
    """Work for one call of a worker; its rows become one part of the stage's table."""

    bucket: str
    keys: tuple[str, ...]
    inputs: tuple[tuple[Any, ...], ...]
    clips: int

    @property
    def name(self) -> str:
        """Name of the part: a hash of what is in it."""
        return hashlib.blake2b("/".join(self.keys).encode(), digest_size=6).hexdigest()

    def split(self) -> list["Batch"]:
        """The same work one input at a time."""
        return [
            Batch(self.bucket, (key,), (inputs,), max(1, self.clips // len(self.keys)))
            for key, inputs in zip(self.keys, self.inputs, strict=True)
        ]


def remaining(job: Job, stage: str) -> Iterator[Batch]:
    """The batches that a stage has not written yet."""
    return _videos(job) if stage == "ingest" else _clips(job, stage)


def count_remaining(job: Job, stage: str) -> int | None:
    """Clips that a stage has not written yet; None for `ingest`, whose annotations are streamed."""
    if stage == "ingest":
        return None
    gate = job.tables[job.stages[stage].gate]
    return sum(
        len(_ok_ids(gate, b) - job.tables[stage].values("clip_id", b)) for b in gate.buckets()
    )


def forget_failed(job: Job, stage: str) -> dict[str, int]:
    """Drop a stage's failed rows, so that they are computed again; returns attempts by clip id."""
    table = job.tables[stage]
    if stage != "ingest":
        return table.drop(Row, lambda row: row.status == "failed")
    # A video is ingested whole: its rejected clips go as well, or it would count as done.
    failed = {row.clip_id: row for row in table.read(Clip) if row.status == "failed"}
    videos = {row.video_id for row in failed.values()}
    table.drop(Clip, lambda row: row.video_id in videos)
    return {clip_id: row.attempts for clip_id, row in failed.items()}


def readmit_missing(job: Job) -> None:
    """Forget the rows of videos that were missing and whose files have come since."""
    table, ingest = job.tables["ingest"], job.stages["ingest"]
    assert isinstance(ingest, Ingest)
    missing = {row.video_id for row in table.read(Clip) if row.reason == "missing_file"}
    if missing:
        come = {v.video_id for v in ingest.source() if v.video_id in missing and v.media_path}
        if come:
            table.drop(Clip, lambda row: row.video_id in come)


def _videos(job: Job) -> Iterator[Batch]:
    table, ingest = job.tables["ingest"], job.stages["ingest"]
    assert isinstance(ingest, Ingest)
    done = table.values("video_id")
    waiting: dict[str, list[SourceVideo]] = defaultdict(list)
    for video in ingest.source():
        if video.video_id in done or not video.spans:
            continue
        bucket = bucket_of(video.video_id)
        waiting[bucket].append(video)
        if sum(len(v.spans) for v in waiting[bucket]) >= CLIPS_WAITING:
            yield _video_batch(bucket, waiting.pop(bucket))
    for bucket in sorted(waiting):
        yield _video_batch(bucket, waiting[bucket])


def _video_batch(bucket: str, videos: list[SourceVideo]) -> Batch:
    keys = tuple(video.video_id for video in videos)
    clips = sum(len(video.spans) for video in videos)
    return Batch(bucket, keys, tuple((video,) for video in videos), clips)


def _clips(job: Job, stage: str) -> Iterator[Batch]:
    size = CLIPS_WAITING if job.stages[stage].light else job.config.run.batch_clips
    for bucket in job.tables["ingest"].buckets():
        items = _bucket_items(job, stage, bucket)
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            keys = tuple(inputs[0].clip_id for inputs in batch)
            yield Batch(bucket, keys, tuple(batch), len(batch))


def _bucket_items(job: Job, stage: str, bucket: str) -> list[tuple[Any, ...]]:
    """The inputs of one bucket: each clip with its rows of the tables that the stage reads."""
    kind = job.stages[stage]
    wanted = _ok_ids(job.tables[kind.gate], bucket) - job.tables[stage].values("clip_id", bucket)
    if not wanted:
        return []
    clips = [c for c in job.tables["ingest"].read(Clip, bucket) if c.clip_id in wanted]
    sources = [
        {row.clip_id: row for row in job.tables[name].read(row_type, bucket)}
        for name, row_type in kind.reads.items()
    ]
    return [
        (clip, *(source[clip.clip_id] for source in sources))
        for clip in sorted(clips, key=clip_order)
    ]


def _ok_ids(table: Table, bucket: str) -> set[str]:
    return {row.clip_id for row in table.read(Row, bucket) if row.status == "ok"}
