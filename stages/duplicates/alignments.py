"""Guesses at how one clip may be a copy of another: a first look at the frames that met.

A seed says that one frame of a clip looks like a view of a frame of another. It implies where the
one picture lies in the other, and how the two clocks differ.

Shapes: F frames, S seeds, G guesses.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.stages.duplicates import fingerprints as fp
from handloom.stages.duplicates.register import Bools, register
from handloom.stages.duplicates.warp import Floats

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Seeds = npt.NDArray[np.void]

# A seed's frames that fit worse are not followed up. Of 37,100 pairs of clips 3,958 were left, of
# 498 copies among them 497.
MIN_EDGES, MAX_DIFFERS, MIN_OVERLAP = 0.5, 0.4, 0.6
MIN_SHARED = 0.4  # of the shorter clip's time both must show: a second's shift leaves half of 2 s
FOLLOWED = 3  # guesses for each pair of clips
CHUNK = 1 << 14  # seeds looked at together: 60 MB
SAME_S = 0.25  # guesses whose clocks differ by no more are the same one


@dataclass(frozen=True)
class Frames:
    """The frames of all clips in a row."""

    fingerprints: fp.Fingerprints  # [F, 1152]
    times_s: Doubles  # [F] on the clock of each clip's file
    clip: npt.NDArray[np.int32]  # [F] ascending
    group: npt.NDArray[np.int32]  # [F]
    first: Ints  # [clips + 1] where each clip's frames begin

    def of(self, clip: int) -> Ints:
        """Numbers of a clip's frames."""
        return np.arange(self.first[clip], self.first[clip + 1])

    def step_s(self, clips: Ints) -> Doubles:
        """Mean time between frames of clips, 0 where there is one frame alone."""
        first, last = self.first[clips], self.first[clips + 1] - 1
        return np.asarray((self.times_s[last] - self.times_s[first]) / np.maximum(1, last - first))


@dataclass(frozen=True)
class Guesses:
    """How one clip may be a copy of another, whose frames lie closer together in time."""

    sparse: Ints  # [G] clip
    dense: Ints  # [G] clip
    ahead_s: Doubles  # [G] clock of the sparse clip less clock of the dense one
    mirror: Bools  # [G]
    warp: Floats  # [G, 4] from the sparse clip's pictures to the other's, mirrored where it says so

    def __getitem__(self, rows: object) -> "Guesses":
        return Guesses(*(getattr(self, name)[rows] for name in Guesses.__dataclass_fields__))

    @property
    def pairs(self) -> Ints:
        """[G, 2] lower and higher clip."""
        return np.sort(np.stack([self.sparse, self.dense], axis=1), axis=1)


def guesses(frames: Frames, seeds: Seeds) -> Guesses:
    """What the seeds whose frames fit best imply, at most `FOLLOWED` guesses a pair of clips.

    Args:
        frames: the frames of all clips that the seeds name.
        seeds: SEED [S] of near_duplicates.py, all those of a pair of clips together.

    Returns:
        The guesses of a pair one after the other, pairs in order.
    """
    parts = [_look(frames, seeds[i : i + CHUNK]) for i in range(0, max(1, len(seeds)), CHUNK)]
    seeds, warp, badness = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    found = _oriented(frames, seeds, warp)
    ties = seeds["view"], seeds["other_frame"], seeds["frame"]
    return _different(found[np.lexsort((*ties, badness, *found.pairs.T[::-1]))])


def _look(frames: Frames, seeds: Seeds) -> tuple[Seeds, Floats, Floats]:
    """Seeds whose frames fit, their warps, and how badly they fit."""
    seeds = seeds[shown_by_both(frames, *_clocks(frames, seeds))[0] >= MIN_SHARED]
    whole, part = (frames.fingerprints[seeds[name]] for name in ("frame", "other_frame"))
    view = seeds["view"]
    fit = register(whole, part, MIRRORED[view], VIEW_WARPS[view], rough=True)
    good = (fit.edges > MIN_EDGES) & (fit.differs < MAX_DIFFERS) & (fit.overlap > MIN_OVERLAP)
    return seeds[good], fit.warp[good], (fit.differs - 0.3 * fit.edges)[good]


def shown_by_both(
    frames: Frames, clip: Ints, other: Ints, ahead_s: Doubles
) -> tuple[Doubles, Doubles]:
    """Time that two clips both show, as a share of the shorter and of the longer one, 0 to 1.

    Args:
        frames: the frames of all clips named.
        clip: numbers of clips [G].
        other: numbers of clips [G].
        ahead_s: clock of the one less clock of the other, [G].
    """
    begin_s, end_s = [], []
    for clips, late_s in ((clip, ahead_s), (other, np.zeros(len(other)))):
        begin_s.append(frames.times_s[frames.first[clips]] - late_s)
        # A sampled frame stands for the time until the next one.
        last_s = frames.times_s[frames.first[clips + 1] - 1]
        end_s.append(last_s + frames.step_s(clips) - late_s)
    both_s = np.min(end_s, axis=0) - np.max(begin_s, axis=0)
    lengths_s = np.sort(np.subtract(end_s, begin_s), axis=0)
    shares = np.where(lengths_s > 0, both_s / np.maximum(lengths_s, 1e-6), 1.0).clip(0, 1)
    return shares[0], shares[1]


def _clocks(frames: Frames, seeds: Seeds) -> tuple[Ints, Ints, Doubles]:
    """Clip, other clip, and by how much the one's clock is ahead, of each seed."""
    clip, other = seeds["clip"].astype(np.int64), seeds["other"].astype(np.int64)
    return clip, other, frames.times_s[seeds["frame"]] - frames.times_s[seeds["other_frame"]]


def _oriented(frames: Frames, seeds: Seeds, warp: Floats) -> Guesses:
    """One guess a seed, from the clip with fewer frames a second to the one with more."""
    clip, other, ahead_s = _clocks(frames, seeds)
    mirror = MIRRORED[seeds["view"]]
    turn = _sparseness(frames, other) > _sparseness(frames, clip)
    return Guesses(
        np.where(turn, other, clip),
        np.where(turn, clip, other),
        np.where(turn, -ahead_s, ahead_s),
        mirror,
        np.where(turn[:, None], _inverse(warp, mirror), warp),
    )


def _sparseness(frames: Frames, clips: Ints) -> Doubles:
    # Of clips with equal steps the one with the lower number: the same whatever the seed's order.
    alone = np.diff(frames.first)[clips] == 1
    step_s = np.where(alone, np.inf, frames.step_s(clips).round(2))
    return np.asarray(step_s - 1e-9 * clips)


def _inverse(warp: Floats, mirror: Bools) -> Floats:
    """Warps the other way round; where pictures are mirrored, so is now the one that was not."""
    back = np.empty_like(warp)
    back[:, ::2] = 1 / warp[:, ::2]
    back[:, 1::2] = -warp[:, 1::2] / warp[:, ::2]
    back[mirror, 1] *= -1
    return back


def _different(found: Guesses) -> Guesses:
    """Guesses whose clocks differ, the first of each pair's that do not."""
    kept: list[int] = []
    last, clocks_s = (-1, -1), list[tuple[bool, float]]()
    pairs = map(tuple, found.pairs.tolist())
    for row, (pair, mirror, ahead_s) in enumerate(
        zip(pairs, found.mirror.tolist(), found.ahead_s.tolist(), strict=True)
    ):
        if pair != last:
            last, clocks_s = pair, []
        known = any(mirror == m and abs(ahead_s - at_s) <= SAME_S for m, at_s in clocks_s)
        if len(clocks_s) < FOLLOWED and not known:
            clocks_s.append((mirror, ahead_s))
            kept.append(row)
    return found[np.array(kept, np.int64)]


def _view_warps() -> Floats:
    """Where each view lies in its frame, the mirrored ones in the mirrored frame, [V, 4]."""
    warps = []
    for view in fp.VIEWS:
        left = 1 - view.left - view.size if view.mirror else view.left
        middle = 2 * left + view.size - 1, 2 * view.top + view.size - 1
        warps.append([view.size, middle[0], view.size, middle[1]])
    return np.array(warps, np.float32)


VIEW_WARPS = _view_warps()
MIRRORED = np.array([view.mirror for view in fp.VIEWS])
