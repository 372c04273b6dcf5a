"""Near-duplicate search: clips of the same footage, re-encoded, cropped, mirrored or shifted.

`near_duplicates` is the entry. Its three steps work on plain arrays, so that a cluster can run each
on a part of the data:

1. `index_frames` hashes frames to a few keys each, and crops of frames ("views") to keys of theirs.
2. `match_entries` joins frames and views that share a key. A match is a candidate: a moment at
   which one clip may be a crop of the other. The join is a shuffle by key.
3. `compare_clips` (compare.py) registers the frames of both clips at the times that a candidate
   implies and scores their similarity. Candidates of a pair must come together: a shuffle by pair.

A frame is matched with at most MAX_BUCKET others for each key and a clip compared with about
NEAREST others, so that time grows with the number of frames, even where a million clips begin with
one title or show one laboratory.

Shapes: F frames, E entries, S candidates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.errors import UserError
from handloom.stages.duplicates import fingerprints as fp
from handloom.stages.duplicates.alignments import FrameTable
from handloom.stages.duplicates.compare import compare_clips

MAX_BUCKET = 200  # index entries that a view is matched with under one key
MAX_BITS = 16  # of 63: unrelated views differ in 31, the best pairs of 918 of 922 copies in <= 16
NEAREST = 50  # clips that a clip is compared with, besides those that have it among theirs
MAX_PER_PAIR = 4  # candidates of a pair of clips, in either direction
CHUNK = 4096  # frames indexed at a time

# 33 bytes; `clip` and `group` travel along, so that `match_entries` needs no other table.
ENTRY = np.dtype(
    [("key", "<i8"), ("signature", "<u8"), ("frame", "<i8"), ("clip", "<i4"), ("group", "<i4"),
     ("view", "u1")]
)  # fmt: skip
CANDIDATE = np.dtype(
    [("clip", "<i4"), ("other", "<i4"), ("bits", "u1"), ("frame", "<i8"), ("other_frame", "<i8"),
     ("view", "u1")]
)  # fmt: skip
Entries = npt.NDArray[np.void]
Candidates = npt.NDArray[np.void]


@dataclass(frozen=True)
class ClipFrames:
    """Sampled frames of one clip: their times and fingerprints."""

    clip_id: str
    group: str  # clips of one group (a source video) are not compared with each other
    times_s: npt.NDArray[np.float64]  # [F] ascending, on the clock of the clip's own file
    fingerprints: fp.Fingerprints  # [F, 1152]


@dataclass(frozen=True)
class Pair:
    """Two clips that show the same footage; ids in ascending order."""

    clip_id: str
    other_id: str
    similarity: float  # 0 to 1


def near_duplicates(clips: Sequence[ClipFrames], min_similarity: float = 0.5) -> Iterator[Pair]:
    """All near-duplicate pairs of clips of different groups, sorted by id.

    Takes about 14 kB of memory a clip of ten frames. The order of `clips` changes nothing.

    Raises:
        UserError: a clip has not as many times as fingerprints, or these are of another size.
    """
    clips = sorted(clips, key=lambda clip: clip.clip_id)
    frames = stack_clips(clips)
    pairs = compare_clips(frames, find_candidates(frames))
    for clip, other, similarity in zip(*pairs, strict=True):
        if similarity >= min_similarity:
            yield Pair(clips[clip].clip_id, clips[other].clip_id, float(similarity))


def stack_clips(clips: Sequence[ClipFrames]) -> FrameTable:
    """The frames of all clips in one table."""
    for clip in clips:
        if clip.fingerprints.shape != (len(clip.times_s), fp.BYTES):
            raise UserError(
                f"clip {clip.clip_id} has {len(clip.times_s)} times and fingerprints of shape "
                f"{clip.fingerprints.shape}, expected one of {fp.BYTES} bytes for each time: "
                "compute them again with this version"
            )
    numbers = {name: n for n, name in enumerate(sorted({clip.group for clip in clips}))}
    counts = [len(clip.times_s) for clip in clips]
    return FrameTable(
        fingerprints=np.concatenate(
            [np.empty((0, fp.BYTES), np.uint8), *(clip.fingerprints for clip in clips)]
        ),
        times_s=np.concatenate([np.empty(0), *(clip.times_s for clip in clips)]),
        clip=np.repeat(np.arange(len(clips), dtype=np.int32), counts),
        group=np.repeat(np.array([numbers[c.group] for c in clips], np.int32), counts),
        first=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
    )


def find_candidates(frames: FrameTable) -> Candidates:
    """Frame pairs that may show the same scene, at most MAX_PER_PAIR a pair and direction."""
    count = len(frames.clip)
    whole = [index_frames(frames, slice(i, i + CHUNK), views=1) for i in range(0, count, CHUNK)]
    index = sort_entries(np.concatenate([np.empty(0, ENTRY), *whole]))
    parts = [np.empty(0, CANDIDATE)]
    for start in range(0, count, CHUNK):
        views = index_frames(frames, slice(start, start + CHUNK), views=len(fp.VIEWS))
        parts.append(keep_best(match_entries(index, views)))
    return keep_nearest(keep_best(np.concatenate(parts)))


def index_frames(frames: FrameTable, part: slice, views: int) -> Entries:
    """Index entries of some frames under the keys of their first `views`; flat frames have none.

    Returns:
        ENTRY [E]; with `views=1` the whole frames, which the views of others are matched with.
    """
    chosen = np.arange(len(frames.clip))[part]
    chosen = chosen[~fp.is_flat(frames.fingerprints[part])]
    spectra = fp.spectra(frames.fingerprints[chosen], views)
    keys = fp.band_keys(spectra)
    entries = np.empty(keys.shape, ENTRY)
    entries["key"], entries["signature"] = keys, fp.signatures(spectra)[..., None]
    for name, values in (("frame", chosen), ("clip", frames.clip), ("group", frames.group)):
        values = values if name == "frame" else values[chosen]
        entries[name] = values[:, None, None]
    entries["view"] = np.arange(views, dtype=np.uint8)[:, None]
    return entries.ravel()


def sort_entries(whole: Entries) -> Entries:
    """Entries sorted by key, then by signature, whose lowest, steadiest frequencies come first."""
    return whole[np.lexsort((whole["frame"], whole["signature"], whole["key"]))]


def match_entries(index: Entries, views: Entries) -> Candidates:
    """Candidates [S]: whole frames and views that share a key and differ in few bits.

    Args:
        index: ENTRY [E] of whole frames, sorted by `sort_entries`, all with one of the views' keys.
        views: ENTRY [E] of views, in any order.
    """
    low, count = _bucket_ranges(index, views)
    parts = []
    # A block at a time: a thousand views with two hundred partners each take 7 MB.
    ends = np.cumsum(count)
    cuts = np.searchsorted(ends, np.arange(1 << 18, int(ends[-1]) if len(ends) else 0, 1 << 18))
    for block in np.split(np.arange(len(views)), cuts):
        times = count[block]
        query = np.repeat(block, times)
        steps = np.arange(len(query)) - np.repeat(np.cumsum(times) - times, times)
        parts.append(_close_pairs(index, low[query] + steps, views, query))
    return np.concatenate([np.empty(0, CANDIDATE), *parts])


def _bucket_ranges(
    index: Entries, views: Entries
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First index row that each view is matched with, and how many rows follow it."""
    keys = np.ascontiguousarray(index["key"])
    low, high = (np.searchsorted(keys, views["key"], side) for side in ("left", "right"))
    for start in np.unique(low[high - low > MAX_BUCKET]):
        # Too many: take those whose signatures are next to the view's in the sorted bucket.
        here = np.flatnonzero((low == start) & (high - low > MAX_BUCKET))
        bucket = index["signature"][start : high[here[0]]]
        place = np.searchsorted(bucket, views["signature"][here]) - MAX_BUCKET // 2
        low[here] = start + place.clip(0, len(bucket) - MAX_BUCKET)
        high[here] = low[here] + MAX_BUCKET
    return low, high - low


def _close_pairs(
    index: Entries, at: npt.NDArray[np.int64], views: Entries, query: npt.NDArray[np.int64]
) -> Candidates:
    """Candidates among given rows of the index and of the views: few bits differ, not one group."""
    bits = np.bitwise_count(index["signature"][at] ^ views["signature"][query])
    apart = index["group"][at] != views["group"][query]
    good = np.flatnonzero((bits <= MAX_BITS) & apart)
    whole, part = index[at[good]], views[query[good]]
    candidates = np.empty(len(good), CANDIDATE)
    candidates["clip"], candidates["frame"] = whole["clip"], whole["frame"]
    candidates["other"], candidates["other_frame"] = part["clip"], part["frame"]
    candidates["bits"], candidates["view"] = bits[good], part["view"]
    return candidates


def keep_best(candidates: Candidates) -> Candidates:
    """The MAX_PER_PAIR candidates that differ in the fewest bits, for each clip and other clip."""
    for within, kept in (
        (("clip", "other", "frame", "other_frame"), 1),
        (("clip", "other"), MAX_PER_PAIR),
    ):
        order = ("view", "other_frame", "frame", "bits", *reversed(within))
        candidates = candidates[np.lexsort([candidates[name] for name in order])]
        new = np.ones(len(candidates), bool)
        new[1:] = np.any([candidates[name][1:] != candidates[name][:-1] for name in within], axis=0)
        begins = np.maximum.accumulate(np.where(new, np.arange(len(candidates)), 0))
        candidates = candidates[np.arange(len(candidates)) - begins < kept]
    return candidates


def keep_nearest(candidates: Candidates) -> Candidates:
    """The candidates of pairs in which one clip is among the NEAREST of the other.

    Args:
        candidates: CANDIDATE [S] after `keep_best`, for each clip all those that name it.
    """
    ends = np.sort(np.stack([candidates["clip"], candidates["other"]], axis=1), axis=1)
    pairs, pair = np.unique(ends, axis=0, return_inverse=True)
    bits = np.full(len(pairs), MAX_BITS, np.uint8)
    np.minimum.at(bits, pair, candidates["bits"])
    kept = np.zeros(len(pairs), bool)
    clips, others = pairs.ravel(), pairs[:, ::-1].ravel()
    order = np.lexsort((others, np.repeat(bits, 2), clips))
    begins = np.searchsorted(clips[order], clips[order])
    kept[order[np.arange(len(order)) - begins < NEAREST] // 2] = True
    return candidates[kept[pair]]
