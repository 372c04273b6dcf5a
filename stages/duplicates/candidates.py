"""Near-duplicate search: clips of the same footage, re-encoded, cropped, mirrored or shifted.

`near_duplicates` is the entry. Its three steps work on plain arrays, so that a cluster can run each
on a part of the data:

1. `index_frames` hashes frames to a few keys each, and crops of frames ("views") to keys of theirs.
2. `match_entries` joins frames and views that share a key. A match is a candidate: a moment at
   which one clip may be a crop of the other. The join is a shuffle by key.
3. `compare_clips` (compare.py) registers the frames of both clips at the times that a candidate
   implies and scores their similarity. Candidates of a pair must come together: a shuffle by pair.

A frame is matched with at most MAX_BUCKET others for each key, and a clip compared with at most
NEAREST others or with those that have it among theirs, so that time grows with the number of
frames, even where a million clips begin with one title or show one laboratory.

Shapes: F frames, E entries, S candidates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from handloom.errors import UserError
from handloom.stages.duplicates import fingerprints as fp
from handloom.stages.duplicates.alignments import FrameTable
from handloom.stages.duplicates.compare import compare_clips

MATCHES_KEPT = 64  # frames that a view is matched with in the end under one key
MAX_BUCKET = 200  # index entries that a view is matched with under one key
SMALL = 512  # pairs of entries under one key, from which on they are compared as a block
BLOCK = 1 << 15  # pairs of entries compared at a time: 256 kB
PAIRS_HELD = 1 << 16  # pairs with few bits apart that are looked at together
HOT_VIEWS = 64  # views of one hot key, sorted by signature, that are compared at a time
MAX_BITS = 16  # of 63: unrelated views differ in 31, the best pairs of 918 of 922 copies in <= 16
NEAREST = 50  # clips that a clip is compared with, besides those that have it among theirs
CROWD = 10  # and where more are like it, such as those of one laboratory
MAX_PER_PAIR = 4  # candidates of a pair of clips, in either direction
CHUNK = 4096  # frames indexed at a time
# A frame and a view that are less alike are dropped. Of entries that share a key by chance and
# differ in at most MAX_BITS, one in 40 stays; of 304 copies that were found without it, 302.
MIN_LIKENESS = 0.58
STRONG, WEAK = 1.7, 0.4  # amplitudes of the frequencies above and below a view's mean one, about
EVERY_BIT = np.uint64((1 << len(fp.FREQUENCIES)) - 1)

# 25 bytes, of which a frame has 90: six as a whole, 84 of its views.
ENTRY = np.dtype(
    [("key", "<u4"), ("signature", "<u8"), ("strong", "<u8"), ("frame", "<u4"), ("view", "u1")]
)
CANDIDATE = np.dtype(
    [("clip", "<i4"), ("other", "<i4"), ("bits", "u1"), ("frame", "<i8"), ("other_frame", "<i8"),
     ("view", "u1")]
)  # fmt: skip
Entries = npt.NDArray[np.void]
Candidates = npt.NDArray[np.void]
Rows = npt.NDArray[np.int64]


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
    starts = range(0, count, CHUNK)
    whole = [index_frames(frames.fingerprints[i : i + CHUNK], i, views=1) for i in starts]
    index = sort_entries(np.concatenate([np.empty(0, ENTRY), *whole]))
    parts = [np.empty(0, CANDIDATE)]
    for start in starts:
        views = index_frames(frames.fingerprints[start : start + CHUNK], start, len(fp.VIEWS))
        for rows in match_entries(index, views):
            found = index[rows[0]], views[rows[1]]
            clips = [frames.clip[entries["frame"]] for entries in found]
            apart = frames.group[found[0]["frame"]] != frames.group[found[1]["frame"]]
            parts.append(make_candidates(*found, *clips)[apart])
    return keep_nearest(keep_best(np.concatenate(parts)))


def index_frames(
    fingerprints: fp.Fingerprints, frames: int | npt.NDArray[np.int64], views: int
) -> Entries:
    """Index entries of frames under the keys of their first `views`; flat frames have none.

    Args:
        fingerprints: of the frames [F].
        frames: their numbers [F], or that of the first of a run.
        views: with 1 the whole frames, which the views of others are matched with.

    Returns:
        ENTRY [E].
    """
    numbers = np.asarray(frames) + (np.arange(len(fingerprints)) if np.ndim(frames) == 0 else 0)
    shown = ~fp.is_flat(fingerprints)
    spectra = fp.spectra(fingerprints[shown], views)
    keys = fp.band_keys(spectra)
    entries = np.empty(keys.shape, ENTRY)
    entries["key"], entries["frame"] = keys, numbers[shown][:, None, None]
    entries["signature"] = fp.signatures(spectra)[..., None]
    entries["strong"] = fp.strong(spectra)[..., None]
    entries["view"] = np.arange(views, dtype=np.uint8)[:, None]
    return entries.ravel()


def sort_entries(whole: Entries) -> Entries:
    """Entries sorted by key, then by signature, whose lowest, steadiest frequencies come first."""
    columns = (np.ascontiguousarray(whole[name]) for name in ("frame", "signature", "key"))
    return whole[np.lexsort(tuple(columns))]


def match_entries(index: Entries, views: Entries) -> Iterator[tuple[Rows, Rows]]:
    """Whole frames and views that share a key and resemble each other, as rows of both [S].

    Args:
        index: ENTRY [E] of whole frames, sorted by `sort_entries`, all with one of the views' keys.
        views: ENTRY [E] of views, in any order.

    Yields:
        Some at a time; all of one view together, the MATCHES_KEPT with the fewest bits apart.
    """
    keys = np.ascontiguousarray(views["key"])
    order = _radix_order(keys)
    keys = keys[order]
    begins = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else order
    counts = np.diff(np.append(begins, len(keys)))
    index_keys = np.ascontiguousarray(index["key"])
    low, high = (np.searchsorted(index_keys, keys[begins], side) for side in ("left", "right"))
    bits = _Bits(index, views)
    is_hot = high - low > MAX_BUCKET
    is_small = (high - low) * counts < SMALL
    held, count = [(np.empty(0, np.int64), np.empty(0, np.int64))], 0
    for rows in chain(
        _match_small(bits, order, begins, counts, low, np.where(is_small & ~is_hot, high, low)),
        *(
            bits.compare(slice(low[run], high[run]), order[begins[run] : begins[run] + counts[run]])
            for run in np.flatnonzero(~is_small & ~is_hot)
        ),
        *(
            _match_hot(bits, low[run], high[run], order[begins[run] : begins[run] + counts[run]])
            for run in np.flatnonzero(is_hot)
        ),
    ):
        held.append(rows)
        count += len(rows[0])
        if count > PAIRS_HELD:
            yield _most_alike(index, views, held)
            held, count = held[:1], 0
    yield _most_alike(index, views, held)


def _radix_order(keys: npt.NDArray[np.uint32]) -> Rows:
    """Order of keys; numpy sorts 16 bits in one pass over them, and 32 by comparing."""
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    return order[np.argsort((keys >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]


def _most_alike(
    index: Entries, views: Entries, pairs: list[tuple[Rows, Rows]]
) -> tuple[Rows, Rows]:
    """Of the matches of each view those that are alike, the MATCHES_KEPT best of them."""
    whole, part = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    alike = likeness(index[whole], views[part]) >= MIN_LIKENESS
    whole, part = whole[alike], part[alike]
    if len(part) <= MATCHES_KEPT:
        return whole, part
    bits = np.bitwise_count(index["signature"][whole] ^ views["signature"][part])
    order = np.lexsort((index["frame"][whole], bits, part))
    begins = np.searchsorted(part[order], part[order])
    order = order[np.arange(len(order)) - begins < MATCHES_KEPT]
    return whole[order], part[order]


class _Bits:
    """Signatures of whole frames and of views, of which pairs are compared."""

    def __init__(self, index: Entries, views: Entries) -> None:
        self.index = np.ascontiguousarray(index["signature"])
        self.views = np.ascontiguousarray(views["signature"])

    def compare(
        self, bucket: slice, views: Rows, first: Rows | None = None
    ) -> Iterator[tuple[Rows, Rows]]:
        """Rows of the index and of the views that differ in few bits, of a bucket and some views.

        Args:
            bucket: rows of the index.
            views: rows of the views.
            first: first row of the index that each view is compared with, of MAX_BUCKET; all if
                None.
        """
        step = max(1, BLOCK // (bucket.stop - bucket.start))
        for start in range(0, len(views), step):
            some = views[start : start + step]
            apart = self.views[some][:, None] ^ self.index[bucket]
            near = np.flatnonzero(np.bitwise_count(apart) <= MAX_BITS)
            if len(near):
                at, row = np.divmod(near, bucket.stop - bucket.start)
                row += bucket.start
                if first is not None:
                    begin = first[start : start + step][at]
                    inside = (row >= begin) & (row < begin + MAX_BUCKET)
                    at, row = at[inside], row[inside]
                yield row, some[at]

    def compare_pairs(self, whole: Rows, part: Rows) -> tuple[Rows, Rows]:
        """The pairs of rows of the index and of the views that differ in few bits."""
        near = np.bitwise_count(self.index[whole] ^ self.views[part]) <= MAX_BITS
        return whole[near], part[near]


def _match_small(
    bits: _Bits, order: Rows, begins: Rows, counts: Rows, low: Rows, high: Rows
) -> Iterator[tuple[Rows, Rows]]:
    """Pairs under keys with few entries, of which a block each would cost more than it holds."""
    times = np.repeat(high - low, counts)
    some = np.flatnonzero(times)
    times, query, start = times[some], order[some], np.repeat(low, counts)[some]
    ends = np.cumsum(times)
    cuts = np.searchsorted(ends, np.arange(1 << 18, int(ends[-1]) if len(ends) else 0, 1 << 18))
    for block in np.split(np.arange(len(query)), cuts):
        many = times[block]
        steps = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
        rows = np.repeat(start[block], many) + steps
        yield bits.compare_pairs(rows, np.repeat(query[block], many))


def _match_hot(bits: _Bits, low: int, high: int, views: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Pairs under a key with many entries: each view with those next to its own signature."""
    views = views[np.argsort(bits.views[views], kind="stable")]
    first = np.searchsorted(bits.index[low:high], bits.views[views]) - MAX_BUCKET // 2
    first = low + first.clip(0, high - low - MAX_BUCKET)
    for start in range(0, len(views), HOT_VIEWS):
        some, begin = views[start : start + HOT_VIEWS], first[start : start + HOT_VIEWS]
        end = int(begin[-1]) + MAX_BUCKET
        if end - begin[0] <= 8 * MAX_BUCKET:
            yield from bits.compare(slice(int(begin[0]), end), some, begin)
        else:
            steps = (begin[:, None] + np.arange(MAX_BUCKET)).ravel()
            yield bits.compare_pairs(steps, np.repeat(some, MAX_BUCKET))


def likeness(whole: Entries, part: Entries) -> npt.NDArray[np.float64]:
    """Cosine of the spectra of frames and views, as far as signs and two strengths tell it, [S].

    Frames that share a key by chance and differ in few bits have 0.5 and rarely more; copies 0.9.
    """
    apart = whole["signature"] ^ part["signature"]
    both, either = whole["strong"] & part["strong"], whole["strong"] | part["strong"]
    neither = ~either & EVERY_BIT
    mixed = either & ~both
    product = sum(
        weight * (np.bitwise_count(mask) - 2.0 * np.bitwise_count(mask & apart))
        for mask, weight in ((both, STRONG**2), (mixed, STRONG * WEAK), (neither, WEAK**2))
    )
    counts = (np.bitwise_count(entries["strong"]) * 1.0 for entries in (whole, part))
    ours, theirs = (n * STRONG**2 + (len(fp.FREQUENCIES) - n) * WEAK**2 for n in counts)
    return np.asarray(product / np.sqrt(ours * theirs))


def make_candidates(
    whole: Entries, part: Entries, clip: npt.NDArray[np.int32], other: npt.NDArray[np.int32]
) -> Candidates:
    """Candidates of matched entries [S] and of the clips that their frames belong to [S]."""
    candidates = np.empty(len(whole), CANDIDATE)
    candidates["clip"], candidates["frame"] = clip, whole["frame"]
    candidates["other"], candidates["other_frame"] = other, part["frame"]
    candidates["bits"] = np.bitwise_count(whole["signature"] ^ part["signature"])
    candidates["view"] = part["view"]
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
    """The candidates of pairs in which one clip is among the nearest of the other.

    Args:
        candidates: CANDIDATE [S] after `keep_best`, for each clip all those that name it.
    """
    kept = nearest_pairs(candidates, 0, np.iinfo(np.int32).max)
    return candidates[np.isin(pairs_of(candidates), kept)]


def nearest_pairs(candidates: Candidates, start: int, stop: int) -> Rows:
    """Pairs in which one clip is among the nearest of a clip from `start` to before `stop`.

    Those are nearest that several candidates name, with few bits apart: a title card that many
    clips share is one candidate. All others count for a clip that has up to NEAREST, and CROWD of
    them for one that has more.

    Args:
        candidates: CANDIDATE [S] after `keep_best`, for each clip of that range all that name it.
        start: number of the first clip.
        stop: number behind the last one.

    Returns:
        int64 [P] as of `pairs_of`, ascending.
    """
    pairs, pair = np.unique(pairs_of(candidates), return_inverse=True)
    weight = np.bincount(pair, MAX_BITS + 1.0 - candidates["bits"], minlength=len(pairs))
    low, high = split_pairs(pairs)
    clips, others = np.concatenate([low, high]), np.concatenate([high, low])
    number, weight = np.tile(np.arange(len(pairs)), 2), np.tile(weight, 2)
    inside = np.flatnonzero((clips >= start) & (clips < stop))
    order = inside[np.lexsort((others[inside], -weight[inside], clips[inside]))]
    begins, ends = (np.searchsorted(clips[order], clips[order], side) for side in ("left", "right"))
    kept = np.arange(len(order)) - begins < np.where(ends - begins > NEAREST, CROWD, NEAREST)
    return pairs[np.unique(number[order[kept]])]


def pairs_of(candidates: Candidates) -> Rows:
    """The two clips of each candidate in one number, the lower one first, int64 [S]."""
    low = np.minimum(candidates["clip"], candidates["other"]).astype(np.int64)
    return np.asarray(low << 32 | np.maximum(candidates["clip"], candidates["other"]))


def split_pairs(pairs: Rows) -> tuple[Rows, Rows]:
    """Lower and higher clip of each pair."""
    return pairs >> 32, pairs & 0xFFFFFFFF
