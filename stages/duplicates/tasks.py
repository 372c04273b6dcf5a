"""The tasks of the shuffle (steps.py): each reads files and tables, and writes a file.

Memory: a task holds an eighth of a partition of entries, or the frames of some thousand pairs.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from handloom.errors import UserError
from handloom.stages.duplicates import fingerprints as fp
from handloom.stages.duplicates.alignments import FrameTable
from handloom.stages.duplicates.candidates import (
    CANDIDATE,
    ENTRY,
    Candidates,
    Entries,
    index_frames,
    keep_best,
    make_candidates,
    match_entries,
    nearest_pairs,
    pairs_of,
    sort_entries,
    split_pairs,
)
from handloom.stages.duplicates.clip_numbers import NO_CLIP
from handloom.stages.duplicates.compare import compare_clips
from handloom.stages.duplicates.outcome import MATCH, describe
from handloom.stages.duplicates.partitions import (
    Ints,
    Records,
    Writer,
    map_records,
    partitioned,
    read_partition,
)
from handloom.stages.duplicates.shuffle import Shuffle
from handloom.stages.tables.reading import check_columns

ROWS = 1024  # rows of the hands table read at a time: 15 MB
VIEWS_JOINED = 1 << 20  # views joined at a time: 25 MB
CANDIDATES_HELD = 1 << 20  # candidates, from which on the best are written: 35 MB
FRAMES_COMPARED = 1 << 16  # frames of the clips that are compared at a time, about: 75 MB
HASH = np.uint64(0x9E3779B97F4A7C15)  # spreads keys over partitions (Knuth's multiplicative hash)

CLIP = np.dtype([("clip", "<i4")])
PAIR = np.dtype([("pair", "<i8")])
FRAME = np.dtype([("time_s", "<f8"), ("fingerprint", "u1", fp.BYTES)])
SPAN = np.dtype([("clip", "<i4"), ("frames", "<i4"), ("start", "<i8")])  # of a clip's frames


def file_frames(shuffle: Shuffle, group: int) -> None:
    """File the frames of some buckets, and their views, under their keys."""
    parts = shuffle.key_parts
    with (
        partitioned(shuffle.path("index", group), ENTRY, parts) as index,
        partitioned(shuffle.path("views", group), ENTRY, parts) as views,
    ):
        for _, fingerprints, numbers, _ in _read_frames(shuffle, group, times=False):
            for file, count in ((index, 1), (views, len(fp.VIEWS))):
                entries = index_frames(fingerprints, numbers, count)
                file.add(entries, _key_part(entries, parts))


def join_keys(shuffle: Shuffle, part: int) -> None:
    """Find the frames and views of a partition of keys that are alike."""
    index = read_partition(shuffle.paths("index", len(shuffle.groups)), ENTRY, part)
    index = sort_entries(index)
    with partitioned(shuffle.path("hits", part), CANDIDATE, shuffle.clip_parts) as file:
        held, count = [np.empty(0, CANDIDATE)], 0
        for views in _read_views(shuffle, part):
            for whole, view in match_entries(index, views):
                held.append(_of_other_videos(shuffle, index[whole], views[view]))
                count += len(held[-1])
                if count > CANDIDATES_HELD:
                    held, count = [_add_hits(shuffle, file, held)], 0
        _add_hits(shuffle, file, held)


def _add_hits(shuffle: Shuffle, file: Writer, held: list[Candidates]) -> Candidates:
    """Write the best of some candidates for both of their clips; returns an empty array."""
    candidates = keep_best(np.concatenate(held))
    ends = [candidates[name] // shuffle.clips_a_part for name in ("clip", "other")]
    across = ends[0] != ends[1]
    file.add(np.concatenate([candidates, candidates[across]]), np.append(ends[0], ends[1][across]))
    return candidates[:0]


def find_nearest(shuffle: Shuffle, part: int) -> None:
    """Choose the pairs that are compared for the clips of a partition."""
    pairs = nearest_pairs(_read_hits(shuffle, part), *shuffle.clips_in(part))
    low, high = split_pairs(pairs)
    clips = np.unique(np.concatenate([low, high]))
    with partitioned(shuffle.path("wanted", part), CLIP, len(shuffle.groups)) as file:
        file.add(clips.astype(np.int32).view(CLIP), shuffle.numbers.home[clips])
    with partitioned(shuffle.path("near", part), PAIR, shuffle.clip_parts) as file:
        file.add(pairs.view(PAIR), low // shuffle.clips_a_part)


def fetch_frames(shuffle: Shuffle, group: int) -> None:
    """Copy the frames of those clips of some buckets that are in a pair."""
    paths = shuffle.paths("wanted", shuffle.clip_parts)
    wanted = np.unique(read_partition(paths, CLIP, group)["clip"])
    describe(shuffle, group, wanted)
    spans, written = [np.empty(0, SPAN)], 0
    with partitioned(shuffle.path("frames", group), FRAME, 1) as file:
        for clips, fingerprints, _, times_s in _read_frames(shuffle, group, wanted=wanted):
            frames = np.empty(len(fingerprints), FRAME)
            frames["fingerprint"], frames["time_s"] = fingerprints, times_s
            file.add(frames, np.zeros(len(frames), np.int64))
            span = np.empty(len(clips), SPAN)
            span["clip"], span["frames"] = clips, np.diff(shuffle.numbers.first)[clips]
            span["start"] = written + np.cumsum(span["frames"]) - span["frames"]
            written += len(frames)
            spans.append(span)
    every = np.concatenate(spans)
    with partitioned(shuffle.path("spans", group), SPAN, 1) as file:
        file.add(every[np.argsort(every["clip"])], np.zeros(len(every), np.int64))


def compare_pairs(shuffle: Shuffle, part: int) -> None:
    """Compare the pairs whose lower clip is in a partition; all end in their clips' groups."""
    hits = _read_hits(shuffle, part)
    near = read_partition(shuffle.paths("near", shuffle.clip_parts), PAIR, part)["pair"]
    candidates = hits[np.isin(pairs_of(hits), near)]
    candidates = candidates[np.argsort(pairs_of(candidates), kind="stable")]
    numbers = shuffle.numbers
    with partitioned(shuffle.path("pairs", part), MATCH, len(shuffle.groups)) as file:
        for some in _chunks_of_pairs(shuffle, candidates):
            clips, frames, local = _gather(shuffle, some)
            low, high, similarity = compare_clips(frames, local)
            good = similarity >= shuffle.min_similarity
            ends, similarity = (clips[low[good]], clips[high[good]]), similarity[good]
            for one, other in (ends, ends[::-1]):
                matches = np.empty(len(one), MATCH)
                matches["clip"], matches["other"], matches["similarity"] = one, other, similarity
                file.add(matches, numbers.home[one])


def _read_frames(
    shuffle: Shuffle, group: int, times: bool = True, wanted: Ints | None = None
) -> Iterator[tuple[npt.NDArray[np.int32], fp.Fingerprints, Ints, npt.NDArray[np.float64]]]:
    """Clips [N], fingerprints [F, 1152], frame numbers [F] and times [F] of a group of buckets.

    Args:
        shuffle: the work.
        group: number of the group.
        times: read times too.
        wanted: clips, ascending; all that are compared if None.
    """
    numbers, rows = shuffle.numbers, 0
    of_group = numbers.rows_of(group)
    source = shuffle.sources[shuffle.groups[group].source]
    columns = ["clip_id", "fingerprints", *(["times_s"] if times else [])]
    for path in _parts(shuffle, group):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS, columns=columns, use_threads=False):
                check_columns(path, batch.schema.names, columns)
                clips = of_group[rows : rows + batch.num_rows]
                rows += batch.num_rows
                taken = clips != NO_CLIP if wanted is None else np.isin(clips, wanted)
                if taken.any():
                    batch, clips = batch.filter(pa.array(taken)), clips[taken]
                    counts = (numbers.first[clips + 1] - numbers.first[clips]).astype(np.int64)
                    fingerprints = _fingerprints(batch, counts)
                    begins = np.repeat(numbers.first[clips] - np.cumsum(counts) + counts, counts)
                    frames = begins + np.arange(len(begins))
                    times_s = pc.list_flatten(batch["times_s"]).to_numpy() if times else np.empty(0)
                    yield clips, fingerprints, frames, times_s
    assert rows == len(of_group), source


def _parts(shuffle: Shuffle, group: int) -> list[Path]:
    buckets = shuffle.groups[group].buckets
    table = shuffle.sources[shuffle.groups[group].source].tables["hands"]
    return [path for bucket in buckets for path in table.parts(bucket)]


def _fingerprints(rows: pa.RecordBatch, counts: Ints) -> fp.Fingerprints:
    """Fingerprints of all frames, uint8 [F, 1152].

    Args:
        rows: of `hands`.
        counts: number of each clip's times.

    Raises:
        UserError: a clip has another number of fingerprints than of times, or of another size.
    """
    column = rows["fingerprints"]
    sizes = pc.binary_length(column).to_numpy()
    wrong = np.flatnonzero(sizes != counts * fp.BYTES)
    if len(wrong):
        clip_id, count = rows["clip_id"][int(wrong[0])].as_py(), counts[wrong[0]]
        raise UserError(
            f"clip {clip_id} has {count} times and {sizes[wrong[0]]} bytes of fingerprints, "
            f"expected {fp.BYTES} for each time: compute them again with this version"
        )
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1]
    data = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return data.reshape(-1, fp.BYTES)


def _key_part(entries: Entries, parts: int) -> Ints:
    spread = entries["key"].astype(np.uint64) * HASH >> np.uint64(40)
    return (spread % np.uint64(parts)).astype(np.int64)


def _read_views(shuffle: Shuffle, part: int) -> Iterator[Entries]:
    """The views of a partition of keys, some files at a time."""
    held = [np.empty(0, ENTRY)]
    for path in shuffle.paths("views", len(shuffle.groups)):
        held.append(read_partition([path], ENTRY, part))
        if sum(map(len, held)) >= VIEWS_JOINED:
            yield np.concatenate(held)
            held = [np.empty(0, ENTRY)]
    yield np.concatenate(held)


def _read_hits(shuffle: Shuffle, part: int) -> Candidates:
    """The best candidates of the clips of a partition."""
    held = [np.empty(0, CANDIDATE)]
    for path in shuffle.paths("hits", shuffle.key_parts):
        held.append(read_partition([path], CANDIDATE, part))
        if len(held[-1]) and sum(map(len, held)) > 2 * len(held[0]) + CANDIDATES_HELD:
            held = [keep_best(np.concatenate(held))]
    return keep_best(np.concatenate(held))


def _of_other_videos(shuffle: Shuffle, whole: Entries, view: Entries) -> Candidates:
    """Candidates of clips of two videos, of which one at least is of this run."""
    numbers = shuffle.numbers
    clip, other = (numbers.clip_of(entries["frame"]) for entries in (whole, view))
    apart = numbers.video[clip] != numbers.video[other]
    if len(shuffle.sources) > 1:
        apart &= is_own(shuffle, clip) | is_own(shuffle, other)
    return make_candidates(whole[apart], view[apart], clip[apart], other[apart])


def is_own(shuffle: Shuffle, clips: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Which clips are of this run."""
    own = np.array([shuffle.sources[group.source].is_own for group in shuffle.groups])
    return np.asarray(own[shuffle.numbers.home[clips]])


def _chunks_of_pairs(shuffle: Shuffle, candidates: Candidates) -> Iterator[Candidates]:
    """Candidates, sorted by pair, in runs of whole pairs with few frames."""
    pairs = pairs_of(candidates)
    begins = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1])) if len(pairs) else pairs
    low, high = split_pairs(pairs[begins])
    first = shuffle.numbers.first
    frames = np.cumsum(first[low + 1] - first[low] + first[high + 1] - first[high])
    cuts = np.flatnonzero(np.diff(frames // FRAMES_COMPARED)) + 1
    yield from (some for some in np.split(candidates, begins[cuts]) if len(some))


def _gather(shuffle: Shuffle, candidates: Candidates) -> tuple[Ints, FrameTable, Candidates]:
    """The clips that candidates name, their frames, and the candidates with numbers of these."""
    first = shuffle.numbers.first
    clips = np.unique(np.concatenate([candidates["clip"], candidates["other"]])).astype(np.int64)
    counts = np.asarray(first[clips + 1] - first[clips])
    local = np.append(0, np.cumsum(counts))
    frames = np.empty(local[-1], FRAME)
    homes = shuffle.numbers.home[clips]
    for group in np.unique(homes).tolist():
        here = np.flatnonzero(homes == group)
        _copy_frames(shuffle, group, clips[here], local[here], frames)
    candidates = candidates.copy()
    for end, frame in (("clip", "frame"), ("other", "other_frame")):
        place = np.searchsorted(clips, candidates[end])
        candidates[frame] += local[place] - first[clips[place]]
        candidates[end] = place
    clip = np.repeat(np.arange(len(clips), dtype=np.int32), counts)
    table = FrameTable(
        np.ascontiguousarray(frames["fingerprint"]), frames["time_s"].copy(), clip, clip, local
    )
    return clips, table, candidates


def _copy_frames(shuffle: Shuffle, group: int, clips: Ints, places: Ints, frames: Records) -> None:
    """Copy the frames of some clips of a group to their places."""
    stored = map_records(shuffle.path("frames", group), FRAME)
    spans = map_records(shuffle.path("spans", group), SPAN)
    for span, place in zip(spans[np.searchsorted(spans["clip"], clips)], places, strict=True):
        count = int(span["frames"])
        frames[place : place + count] = stored[span["start"] : span["start"] + count]
