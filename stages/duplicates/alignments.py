"""Alignments: the crop, mirroring and clock offset with which one clip may copy another.

A candidate (candidates.py) says that a frame of one clip resembles a view of a frame of another.
The view implies where the one image lies in the other, the two times how far the clocks differ.

Shapes: F frames, S candidates, G alignments.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.stages.duplicates import fingerprints as fp
from handloom.stages.duplicates.register import Bools, register
from handloom.stages.duplicates.warp import Floats

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Candidates = npt.NDArray[np.void]

# Candidates whose frames fit worse are dropped. Of 37,100 pairs of clips that left 3,958, of the
# 498 copies among them 497.
MIN_EDGES, MAX_DIFFERENCE, MIN_OVERLAP = 0.5, 0.4, 0.6
MIN_TIME_OVERLAP = 0.4  # of the shorter clip: a shift of a second leaves half of a clip of 2 s
MAX_ALIGNMENTS = 3  # for each pair of clips
CHUNK = 1 << 14  # candidates registered at a time: 60 MB
SAME_OFFSET_S = 0.25  # alignments whose clock offsets differ by no more are the same one


@dataclass(frozen=True)
class FrameTable:
    """The frames of all clips, one after the other."""

    fingerprints: fp.Fingerprints  # [F, 1152]
    times_s: Doubles  # [F] on the clock of each clip's file
    clip: npt.NDArray[np.int32]  # [F] ascending
    group: npt.NDArray[np.int32]  # [F]
    first: Ints  # [clips + 1] where each clip's frames begin

    def rows_of(self, clip: int) -> Ints:
        """Row numbers of a clip's frames, int64 [frames of the clip]."""
        return np.arange(self.first[clip], self.first[clip + 1])

    def step_s(self, clips: Ints) -> Doubles:
        """Mean time between the frames of each clip, float64 [clips]; 0 for a single frame."""
        first, last = self.first[clips], self.first[clips + 1] - 1
        return np.asarray((self.times_s[last] - self.times_s[first]) / np.maximum(1, last - first))


@dataclass(frozen=True)
class Alignments:
    """Alignments of a sparse clip, which may copy a dense one, with more frames a second."""

    sparse: Ints  # [G] clip
    dense: Ints  # [G] clip
    offset_s: Doubles  # [G] clock of the sparse clip minus clock of the dense one
    mirror: Bools  # [G]
    warp: Floats  # [G, 4] from the sparse clip's frames to the dense one's, mirrored if so

    def __getitem__(self, rows: object) -> "Alignments":
        return Alignments(*(getattr(self, name)[rows] for name in Alignments.__dataclass_fields__))

    @property
    def pairs(self) -> Ints:
        """Lower and higher clip number, int64 [G, 2]."""
        return np.sort(np.stack([self.sparse, self.dense], axis=1), axis=1)


def propose_alignments(frames: FrameTable, candidates: Candidates) -> Alignments:
    """Alignments implied by the candidates that fit best, at most MAX_ALIGNMENTS a pair of clips.

    Args:
        frames: the frames of all clips that the candidates name.
        candidates: CANDIDATE [S] of candidates.py, all those of a pair of clips together.

    Returns:
        The alignments of a pair one after the other, pairs in order.
    """
    parts = [
        _register_candidates(frames, candidates[i : i + CHUNK])
        for i in range(0, max(1, len(candidates)), CHUNK)
    ]
    candidates, warp, badness = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    alignments = _orient(frames, candidates, warp)
    ties = candidates["view"], candidates["other_frame"], candidates["frame"]
    return _drop_repeats(alignments[np.lexsort((*ties, badness, *alignments.pairs.T[::-1]))])


def _register_candidates(
    frames: FrameTable, candidates: Candidates
) -> tuple[Candidates, Floats, Floats]:
    """Candidates whose frames fit, their warps [S, 4] and their misfit [S], lower is better."""
    candidates = candidates[
        time_overlap(frames, *_clock_offsets(frames, candidates))[0] >= MIN_TIME_OVERLAP
    ]
    whole, part = (frames.fingerprints[candidates[name]] for name in ("frame", "other_frame"))
    view = candidates["view"]
    fit = register(whole, part, VIEW_MIRRORED[view], VIEW_WARPS[view], rough=True)
    good = (fit.edges > MIN_EDGES) & (fit.difference < MAX_DIFFERENCE) & (fit.overlap > MIN_OVERLAP)
    return candidates[good], fit.warp[good], (fit.difference - 0.3 * fit.edges)[good]


def time_overlap(
    frames: FrameTable, clip: Ints, other: Ints, offset_s: Doubles
) -> tuple[Doubles, Doubles]:
    """Time that two clips both show, as a share of the shorter and of the longer one, each [G].

    Args:
        frames: the frames of all clips named.
        clip: numbers of clips [G].
        other: numbers of clips [G].
        offset_s: clock of the first minus clock of the second, seconds [G].
    """
    begin_s, end_s = [], []
    for clips, shift_s in ((clip, offset_s), (other, np.zeros(len(other)))):
        begin_s.append(frames.times_s[frames.first[clips]] - shift_s)
        # A sampled frame stands for the time until the next one.
        last_s = frames.times_s[frames.first[clips + 1] - 1]
        end_s.append(last_s + frames.step_s(clips) - shift_s)
    shared_s = np.min(end_s, axis=0) - np.max(begin_s, axis=0)
    lengths_s = np.sort(np.subtract(end_s, begin_s), axis=0)
    shares = np.where(lengths_s > 0, shared_s / np.maximum(lengths_s, 1e-6), 1.0).clip(0, 1)
    return shares[0], shares[1]


def _clock_offsets(frames: FrameTable, candidates: Candidates) -> tuple[Ints, Ints, Doubles]:
    """Clip, other clip and clock offset in seconds of each candidate, each [S]."""
    clip, other = candidates["clip"].astype(np.int64), candidates["other"].astype(np.int64)
    return (
        clip,
        other,
        frames.times_s[candidates["frame"]] - frames.times_s[candidates["other_frame"]],
    )


def _orient(frames: FrameTable, candidates: Candidates, warp: Floats) -> Alignments:
    """One alignment a candidate, from the clip with fewer frames a second to the one with more."""
    clip, other, offset_s = _clock_offsets(frames, candidates)
    mirror = VIEW_MIRRORED[candidates["view"]]
    swap = _frame_interval_s(frames, other) > _frame_interval_s(frames, clip)
    return Alignments(
        np.where(swap, other, clip),
        np.where(swap, clip, other),
        np.where(swap, -offset_s, offset_s),
        mirror,
        np.where(swap[:, None], _invert_warps(warp, mirror), warp),
    )


def _frame_interval_s(frames: FrameTable, clips: Ints) -> Doubles:
    # A tie goes to the lower clip number, so that the order of a candidate's clips does not count.
    alone = np.diff(frames.first)[clips] == 1
    step_s = np.where(alone, np.inf, frames.step_s(clips).round(2))
    return np.asarray(step_s - 1e-9 * clips)


def _invert_warps(warp: Floats, mirror: Bools) -> Floats:
    """Inverse warps [G, 4]; where frames are mirrored, the other one of the two now is."""
    back = np.empty_like(warp)
    back[:, ::2] = 1 / warp[:, ::2]
    back[:, 1::2] = -warp[:, 1::2] / warp[:, ::2]
    back[mirror, 1] *= -1
    return back


def _drop_repeats(alignments: Alignments) -> Alignments:
    """The first MAX_ALIGNMENTS of each pair of clips whose clock offsets differ."""
    kept: list[int] = []
    last, clocks_s = (-1, -1), list[tuple[bool, float]]()
    pairs = map(tuple, alignments.pairs.tolist())
    for row, (pair, mirror, offset_s) in enumerate(
        zip(pairs, alignments.mirror.tolist(), alignments.offset_s.tolist(), strict=True)
    ):
        if pair != last:
            last, clocks_s = pair, []
        known = any(mirror == m and abs(offset_s - at_s) <= SAME_OFFSET_S for m, at_s in clocks_s)
        if len(clocks_s) < MAX_ALIGNMENTS and not known:
            clocks_s.append((mirror, offset_s))
            kept.append(row)
    return alignments[np.array(kept, np.int64)]


def _view_warps() -> Floats:
    """Warps [V, 4] of where each view lies in its frame, mirrored ones in the mirrored frame."""
    warps = []
    for view in fp.VIEWS:
        left = 1 - view.left - view.size if view.mirror else view.left
        middle = 2 * left + view.size - 1, 2 * view.top + view.size - 1
        warps.append([view.size, middle[0], view.size, middle[1]])
    return np.array(warps, np.float32)


VIEW_WARPS = _view_warps()
VIEW_MIRRORED = np.array([view.mirror for view in fp.VIEWS])
