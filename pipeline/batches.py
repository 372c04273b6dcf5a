"""Batches of the work that is left: a stage's inputs less the rows of its table, by bucket."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from handloom.errors import UserError
from handloom.listings import forget_listings
from handloom.pipeline.batch import Batch
from handloom.pipeline.job import Job
from handloom.stages.datasets.source import SourceEpisode, SourceVideo
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.ingest.probes import probe_table
from handloom.stages.ingest.videos import Ingest
from handloom.stages.stage import TableStage
from handloom.stages.tables.inputs import Inputs, all_outdated, read_inputs
from handloom.stages.tables.outcomes import coming
from handloom.stages.tables.parts import Tables, bucket_of, listed, read_marker
from handloom.stages.tables.rows import EpisodeClip, Row, clip_id

Source = SourceVideo | SourceEpisode

CLIPS_WAITING = 2048  # the size of a part where computing costs next to nothing
UNITS_WAITING = 256  # files that a worker ingests at a time
ALL_WAITING = 65_536  # clips in all incomplete batches, some 60 MB


def remaining(job: Job, stage: str) -> Iterator[Batch]:
    """The batches that a stage has not written yet."""
    return _units(job) if stage == "ingest" else _clips(job, stage)


def count_remaining(job: Job, stage: str) -> int | None:
    """Clips that a stage has not written yet; None for `ingest`, whose annotations are streamed."""
    if stage == "ingest":
        return None
    tables = listed(job.tables)
    buckets = tables[job.flow[stage]].buckets()
    if isinstance(job.stages[stage], TableStage):
        marker = read_marker(job.folder(stage))
        current = {"fingerprint": job.tables[stage].fingerprint, "inputs": job.inputs(stage)}
        # A part may have been deleted since: the marker says how many rows there were.
        is_whole = marker.get("stored", 0) <= job.tables[stage].row_count()
        if marker.get("finished") and current.items() <= marker.items() and is_whole:
            return 0
        return sum(len(coming(tables, stage, bucket)) for bucket in buckets)
    return sum(len(_missing(tables, stage, bucket)) for bucket in buckets)


def count_listed(job: Job) -> int:
    """Clips that the annotations list and `ingest` has not read, about: speech is cut later."""
    done, ingest = job.tables["ingest"].values("unit"), job.stages["ingest"]
    assert isinstance(ingest, Ingest | EpisodeIngest)
    return sum(source.clips for source in ingest.sources() if source.unit not in done)


def forget_failed(job: Job, stage: str) -> dict[str, int]:
    """Drop a stage's failed rows, so that they are computed again; returns attempts by clip id."""
    table = job.tables[stage]
    if stage != "ingest":
        return table.drop("status", ["failed"])
    probe_table(job.cache).drop("status", ["failed"])
    # A unit is ingested whole: its rejected clips go as well, or it would count as done.
    failed = table.where("status", "failed", "clip_id")
    attempts = table.drop("unit", table.where("status", "failed", "unit"))
    return {clip_id: attempts[clip_id] for clip_id in failed}


def drop_outdated(job: Job, stage: str, say: Callable[[int], None] = lambda rows: None) -> None:
    """Drop a stage's rows that were made from other values than their clips have now.

    Args:
        job: the run.
        stage: its name; nobody writes to its table.
        say: is given their number before they go.
    """
    tables = listed(job.tables)
    found = list(all_outdated(job.stages[stage], tables))
    if found:
        say(sum(len(clip_ids) for _, clip_ids in found))
    for bucket, clip_ids in found:
        tables[stage].drop("clip_id", clip_ids.to_pylist(), bucket)
    forget_listings(tables[stage].folder)


def readmit_missing(job: Job) -> None:
    """Drop the rows of videos that were missing and whose files are there now."""
    table, ingest = job.tables["ingest"], job.config.ingest
    missing = table.where("reason", "missing_file", "unit")
    if missing and isinstance(ingest, Ingest):
        sources = ingest.at(job.data).sources()
        arrived = {v.unit for v in sources if v.unit in missing and v.media_path}
        if arrived:
            table.drop("unit", arrived)


def refuse_repeated(job: Job) -> None:
    """Raise UserError for clips of videos that are there twice: every later stage goes by ids."""
    table = job.tables["ingest"]
    for bucket in table.buckets():
        rows = table.columns(["clip_id", "video_id"], [bucket])
        if pc.count_distinct(rows["clip_id"]).as_py() == len(rows):
            continue
        ids, video_ids = rows["clip_id"].to_pylist(), rows["video_id"].to_pylist()
        clip, count = Counter(ids).most_common(1)[0]
        raise UserError(
            f"ingest has clip {clip} of video {video_ids[ids.index(clip)]!r} {count} times: the "
            "adapter lists that video more than once, and is expected to list each once, with all "
            "its spans. Correct that and run the same command again."
        )


def reject_duplicates(job: Job) -> None:
    """Reject all but the first unit of robot episodes with the same content.

    An episode's id is only known once it is read, so two workers can ingest the same one: in a
    shard that lies there under two names, or in V1 data within V2.
    """
    if not isinstance(job.config.ingest, EpisodeIngest):
        return
    table = job.tables["ingest"]
    first: dict[str, str] = {}
    duplicates: set[str] = set()
    for row in table.read(_Identity):
        loser = max(row.unit, first.setdefault(row.clip_id, row.unit))
        if row.unit != first[row.clip_id]:
            first[row.clip_id] = min(row.unit, first[row.clip_id])
            duplicates.add(loser)
    if not duplicates:
        return
    clips = [row for row in table.read(EpisodeClip) if row.unit in duplicates]
    table.drop("unit", duplicates)  # if killed here they are read again
    for clip in clips:
        own_id = clip_id(clip.dataset, clip.unit, 0.0, math.inf)
        duplicate = replace(clip, clip_id=own_id, status="rejected", reason="duplicate")
        name = hashlib.blake2b(clip.unit.encode(), digest_size=6).hexdigest()
        table.write(clip.bucket, name, [duplicate], EpisodeClip)


@dataclass(frozen=True, kw_only=True)
class _Identity(Row):
    unit: str


def _units(job: Job) -> Iterator[Batch]:
    """Batches of the units that the annotations list; a bucket's units wait until they fill one."""
    done = job.tables["ingest"].values("unit")
    waiting: dict[str, list[Source]] = defaultdict(list)
    clips: Counter[str] = Counter()
    ingest = job.stages["ingest"]
    assert isinstance(ingest, Ingest | EpisodeIngest)
    for source in ingest.sources():
        if source.unit in done or not source.clips:
            continue
        bucket = bucket_of(source.bucket_key)
        waiting[bucket].append(source)
        clips[bucket] += source.clips
        if clips.total() >= ALL_WAITING:  # memory is short: the fullest bucket goes first
            bucket = max(clips, key=clips.__getitem__)
        elif clips[bucket] < CLIPS_WAITING and len(waiting[bucket]) < UNITS_WAITING:
            continue
        yield _unit_batch(bucket, waiting.pop(bucket), clips.pop(bucket))
    for bucket in sorted(waiting):
        yield _unit_batch(bucket, waiting[bucket], clips[bucket])


def _unit_batch(bucket: str, sources: list[Source], clips: int) -> Batch:
    keys = tuple(source.unit for source in sources)
    return Batch(bucket, keys, tuple((source,) for source in sources), clips)


def _clips(job: Job, stage: str) -> Iterator[Batch]:
    size = CLIPS_WAITING if job.stages[stage].light else job.config.run.batch_clips
    # What workers of a killed run still write after that is dropped when the stage is done.
    tables = listed(job.tables)
    for bucket in from_the_last(tables["ingest"].buckets(), tables[stage].buckets()):
        missing = _missing(tables, stage, bucket)
        if len(missing):
            found = read_inputs(job.stages[stage], tables, bucket, missing)
            yield from in_batches(bucket, found, size)


def from_the_last(buckets: list[str], begun: list[str]) -> list[str]:
    """Buckets in the order in which they are looked at: from the last one that was begun.

    A run that was killed goes on there; that those before it lack nothing is seen meanwhile.
    """
    start = buckets.index(begun[-1]) if begun and begun[-1] in buckets else 0
    return buckets[start:] + buckets[:start]


def in_batches(bucket: str, found: Inputs, size: int) -> Iterator[Batch]:
    """Batches of clips of one bucket in the order of their videos, each with what is read of it."""
    columns = ["video_id", "start_s", "end_s", "clip_id"]  # as in `clip_order`
    order = pc.sort_indices(found.clips, sort_keys=[(name, "ascending") for name in columns])
    found = found.take(order)  # at once: for each batch it takes as long as making its rows
    digests = found.digests()
    for start in range(0, len(order), size):
        inputs = found.slice(start, size).rows()
        keys = tuple(one[0].clip_id for one in inputs)
        of_batch = tuple(digests[start : start + size].tolist())
        yield Batch(bucket, keys, tuple(inputs), len(inputs), of_batch)


def _missing(tables: Tables, stage: str, bucket: str) -> pa.Array:
    """Ids of the clips that come to a stage and have no row there yet."""
    clips, rows = coming(tables, stage, bucket), tables[stage].columns(["clip_id"], [bucket])
    return clips.filter(pc.invert(pc.is_in(clips, value_set=rows["clip_id"].cast(pa.string()))))
