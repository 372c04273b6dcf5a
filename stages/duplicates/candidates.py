"""Near-duplicate clips: which show the same footage, re-encoded, cropped, mirrored or shifted.

Three steps, each over plain arrays, so that a cluster can run each of them on a part of the data:

1. `file_frames` files each frame under a few keys as it is, and its views under keys of theirs.
2. `meet` joins frames with views under the same key: moments at which one clip may be a crop of
   the other. Rows of one key must come together, which is a shuffle by key; nothing else must.
3. `compare` lays the pictures of both clips over each other at the times that such a moment
   implies, and tells how alike they are. Seeds of one pair must come together: a shuffle by pair.

A frame meets at most `MAX_BUCKET` others for each key, and a clip is compared with about `NEAREST`
others, so that time grows with the number of frames, also where a million clips begin with one
title or show one laboratory. `near_duplicates` runs all three.

Shapes: F frames, E entries, S seeds, R registered pairs of frames.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.errors import UserError
from handloom.stages.duplicates import compare as alikeness
from handloom.stages.duplicates import fingerprints as fp
from handloom.stages.duplicates.alignments import Frames

MAX_BUCKET = 200
MAX_BITS = 16  # of 63: unrelated views differ in 31, the best of 918 in 922 copies in no more
NEAREST = 50  # other clips that a clip is compared with, unless it is among the nearest of theirs
MAX_SEEDS = 4  # for a pair of clips in either direction
CHUNK = 4096  # frames filed at a time

# 33 bytes; `clip` and `group` travel along so that `meet` needs no other table.
ENTRY = np.dtype(
    [("key", "<i8"), ("signature", "<u8"), ("frame", "<i8"), ("clip", "<i4"), ("group", "<i4"),
     ("view", "u1")]
)  # fmt: skip
SEED = np.dtype(
    [("clip", "<i4"), ("other", "<i4"), ("bits", "u1"), ("frame", "<i8"), ("other_frame", "<i8"),
     ("view", "u1")]
)  # fmt: skip
Entries = npt.NDArray[np.void]
Seeds = npt.NDArray[np.void]


@dataclass(frozen=True)
class ClipFrames:
    """What is stored of a clip: when its frames were sampled, and their fingerprints."""

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
    """All pairs of clips of different groups that are alike, sorted by id.

    Takes about 14 kB of memory a clip of ten frames. The order of `clips` changes nothing.

    Raises:
        UserError: a clip has not as many times as fingerprints, or fingerprints of another form.
    """
    clips = sorted(clips, key=lambda clip: clip.clip_id)
    frames = gathered(clips)
    pairs = alikeness.compare(frames, search(frames))
    for clip, other, similarity in zip(*pairs, strict=True):
        if similarity >= min_similarity:
            yield Pair(clips[clip].clip_id, clips[other].clip_id, float(similarity))


def gathered(clips: Sequence[ClipFrames]) -> Frames:
    """The frames of all clips in a row."""
    for clip in clips:
        if clip.fingerprints.shape != (len(clip.times_s), fp.BYTES):
            raise UserError(
                f"clip {clip.clip_id} has {len(clip.times_s)} times and fingerprints of shape "
                f"{clip.fingerprints.shape}, expected one of {fp.BYTES} bytes for each time: "
                "compute them again with this version"
            )
    numbers = {name: n for n, name in enumerate(sorted({clip.group for clip in clips}))}
    counts = [len(clip.times_s) for clip in clips]
    return Frames(
        fingerprints=np.concatenate(
            [np.empty((0, fp.BYTES), np.uint8), *(clip.fingerprints for clip in clips)]
        ),
        times_s=np.concatenate([np.empty(0), *(clip.times_s for clip in clips)]),
        clip=np.repeat(np.arange(len(clips), dtype=np.int32), counts),
        group=np.repeat(np.array([numbers[c.group] for c in clips], np.int32), counts),
        first=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
    )


def search(frames: Frames) -> Seeds:
    """Moments at which two clips may show the same picture, at most `MAX_SEEDS` a direction."""
    count = len(frames.clip)
    whole = [file_frames(frames, slice(i, i + CHUNK), views=1) for i in range(0, count, CHUNK)]
    index = in_order(np.concatenate([np.empty(0, ENTRY), *whole]))
    found = [np.empty(0, SEED)]
    for start in range(0, count, CHUNK):
        views = file_frames(frames, slice(start, start + CHUNK), views=len(fp.VIEWS))
        found.append(strongest(meet(index, views)))
    return nearest(strongest(np.concatenate(found)))


def file_frames(frames: Frames, part: slice, views: int) -> Entries:
    """Entries of some frames under the keys of their first views; flat frames have none.

    Returns:
        ENTRY [E]; with `views=1` the frames as they are, which views of others are compared with.
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


def in_order(whole: Entries) -> Entries:
    """Entries by key, then by signature: the lowest, steadiest frequencies count most."""
    return whole[np.lexsort((whole["frame"], whole["signature"], whole["key"]))]


def meet(index: Entries, views: Entries) -> Seeds:
    """Whole frames and views that share a key and differ in few signs.

    Args:
        index: ENTRY [E], whole frames, `in_order`, all that have one of the views' keys.
        views: ENTRY [E], in any order.
    """
    low, count = _buckets(index, views)
    found = []
    # A block at a time: a thousand views with two hundred partners each take 7 MB.
    ends = np.cumsum(count)
    cuts = np.searchsorted(ends, np.arange(1 << 18, int(ends[-1]) if len(ends) else 0, 1 << 18))
    for block in np.split(np.arange(len(views)), cuts):
        times = count[block]
        query = np.repeat(block, times)
        steps = np.arange(len(query)) - np.repeat(np.cumsum(times) - times, times)
        found.append(_alike(index, low[query] + steps, views, query))
    return np.concatenate([np.empty(0, SEED), *found])


def _buckets(index: Entries, views: Entries) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where in the index each view's partners begin, and how many there are."""
    keys = np.ascontiguousarray(index["key"])
    low, high = (np.searchsorted(keys, views["key"], side) for side in ("left", "right"))
    for start in np.unique(low[high - low > MAX_BUCKET]):
        # Too many: those whose signatures are next to the view's in the order of the bucket.
        here = np.flatnonzero((low == start) & (high - low > MAX_BUCKET))
        bucket = index["signature"][start : high[here[0]]]
        place = np.searchsorted(bucket, views["signature"][here]) - MAX_BUCKET // 2
        low[here] = start + place.clip(0, len(bucket) - MAX_BUCKET)
        high[here] = low[here] + MAX_BUCKET
    return low, high - low


def _alike(
    index: Entries, at: npt.NDArray[np.int64], views: Entries, query: npt.NDArray[np.int64]
) -> Seeds:
    """Seeds from rows of the index and rows of the views, where few signs differ."""
    bits = np.bitwise_count(index["signature"][at] ^ views["signature"][query])
    apart = index["group"][at] != views["group"][query]
    good = np.flatnonzero((bits <= MAX_BITS) & apart)
    whole, part = index[at[good]], views[query[good]]
    seeds = np.empty(len(good), SEED)
    seeds["clip"], seeds["frame"] = whole["clip"], whole["frame"]
    seeds["other"], seeds["other_frame"] = part["clip"], part["frame"]
    seeds["bits"], seeds["view"] = bits[good], part["view"]
    return seeds


def strongest(seeds: Seeds) -> Seeds:
    """The `MAX_SEEDS` pairs of frames that differ least, for each clip and other clip."""
    for within, kept in (
        (("clip", "other", "frame", "other_frame"), 1),
        (("clip", "other"), MAX_SEEDS),
    ):
        order = ("view", "other_frame", "frame", "bits", *reversed(within))
        seeds = seeds[np.lexsort([seeds[name] for name in order])]
        new = np.ones(len(seeds), bool)
        new[1:] = np.any([seeds[name][1:] != seeds[name][:-1] for name in within], axis=0)
        begins = np.maximum.accumulate(np.where(new, np.arange(len(seeds)), 0))
        seeds = seeds[np.arange(len(seeds)) - begins < kept]
    return seeds


def nearest(seeds: Seeds) -> Seeds:
    """The seeds of pairs in which one clip is among the `NEAREST` of the other.

    Args:
        seeds: SEED [S], the `strongest` of all, of each clip all those that name it.
    """
    ends = np.sort(np.stack([seeds["clip"], seeds["other"]], axis=1), axis=1)
    pairs, pair = np.unique(ends, axis=0, return_inverse=True)
    bits = np.full(len(pairs), MAX_BITS, np.uint8)
    np.minimum.at(bits, pair, seeds["bits"])
    kept = np.zeros(len(pairs), bool)
    clips, others = pairs.ravel(), pairs[:, ::-1].ravel()
    order = np.lexsort((others, np.repeat(bits, 2), clips))
    begins = np.searchsorted(clips[order], clips[order])
    kept[order[np.arange(len(order)) - begins < NEAREST] // 2] = True
    return seeds[kept[pair]]
