"""How alike two clips are, from the fingerprints of their frames.

A guess says which clip may show what another does, where in its pictures, and by which clocks.
Frames that fall together by these clocks are laid over each other one by one, since the camera may
move between samples.

Frames of a copy are hardly ever sampled at the same instant, so that a hand is elsewhere in them.
Two things tell a copy from other footage of the same table. What differs is set against what
differs between frames that do not fall together by these clocks. And on the scale of a hand, a
frame is compared with a mixture of the other clip's frames before and after it, at the same
instant for all frames: there a hand lies between the places where the others show it.

Shapes: G guesses, M moments, R pairs of frames, P pairs of clips, Q sizes of a soft difference.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from handloom.stages.duplicates.alignments import (
    Doubles,
    Frames,
    Guesses,
    Ints,
    guesses,
    shown_by_both,
)
from handloom.stages.duplicates.register import Fit, register

PART = 256  # guesses looked at together: 10,000 pairs of frames, 100 MB
CLOCK_S = 0.3  # frames fall together when their times differ by no more
SCREENED, MOMENTS = 5, 12  # frames compared for each guess, at a second look and at the last
LIKELY = -4.0  # log odds at the second look: others are not looked at again
APART_S = 0.9  # moments that far apart are others
OTHERS = 8  # of those that are compared for each guess
OFF_S = np.linspace(-0.5, 0.5, 11)  # by so much clocks may be off: a guess's frames are samples

# Logistic regressions on copies planted among 1,600 rendered clips, all of shared rooms and others
# than those that benchmarks/bench_duplicates.py counts, and among 124 clips of real files.
SECOND_LOOK = {
    "moments": 1.6, "edges": -3.2, "best_edges": 14.5, "differs": -16.9, "best_differs": -18.2,
    "": -6.5,
}  # fmt: skip
# `both` is set by hand: the planted copies are about as long as their originals, and a regression
# on them would take 11. A copy of a third of a clip needs clearer frames than one of the whole. The
# constant was lowered by 0.4: a clip dropped by mistake costs more than a repeat that stays.
WEIGHTS = {
    "moments": 1.2, "best_edges": 7.3, "outside": -4.9, "drift": -5.3, "both": 6.0,
    "best_differs_share": -6.0, "luma_share": -1.3, "luma_usual": -0.9, "color_share": -2.1,
    "best_color_left": -1.0, "": -14.2,
}  # fmt: skip

Look = Callable[[Frames, Guesses], Doubles]
Terms = dict[str, Doubles]
Reals = npt.NDArray[np.floating[Any]]


def compare(frames: Frames, seeds: npt.NDArray[np.void]) -> tuple[Ints, Ints, Doubles]:
    """Similarity of each pair of clips that has a seed worth following up.

    Args:
        frames: the frames of all clips that the seeds name.
        seeds: SEED [S] of near_duplicates.py, all those of a pair of clips together.

    Returns:
        Lower clip [P], higher clip [P], similarity 0 to 1 [P]; sorted by clips.
    """
    likely = likely_guesses(frames, seeds)
    similarity = 1 / (1 + np.exp(-_in_parts(frames, likely, last_look)))
    low, high = likely.pairs.T
    order = np.lexsort((-similarity, high, low))
    low, high, similarity = low[order], high[order], similarity[order]
    new = np.ones(len(low), bool)
    new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return low[new], high[new], similarity[new]


def likely_guesses(frames: Frames, seeds: npt.NDArray[np.void]) -> Guesses:
    """Guesses that a second look leaves."""
    found = guesses(frames, seeds)
    return found[np.flatnonzero(_in_parts(frames, found, second_look) > LIKELY)]


def _in_parts(frames: Frames, found: Guesses, look: Look) -> Doubles:
    starts = range(0, len(found.sparse), PART)
    odds = [look(frames, found[start : start + PART]) for start in starts]
    return np.concatenate([np.empty(0), *odds])


def second_look(frames: Frames, found: Guesses) -> Doubles:
    """Log odds from a few frames that fall together, [G]."""
    rows, ours, theirs = _together(frames, found, SCREENED)
    fit = _laid_over(frames, found, rows, ours, theirs)
    return _odds(SECOND_LOOK, _fit_terms(fit, rows, len(found.sparse)))


def last_look(frames: Frames, found: Guesses) -> Doubles:
    """Log odds that two clips show the same footage, [G]."""
    return _odds(WEIGHTS, terms(frames, found))


def _odds(weights: dict[str, float], values: Terms) -> Doubles:
    return np.asarray(sum(weights[name] * values[name] for name in weights))


# --- pairs of frames ----------------------------------------------------------------------------


def _together(frames: Frames, found: Guesses, most: int) -> tuple[Ints, Ints, Ints]:
    """Frames that fall together by each guess's clocks: guess, sparse and dense clip's frame [M].

    Every guess has one such pair or more, that of its seed.
    """
    parts = []
    for row, (sparse, dense, ahead_s) in enumerate(
        zip(found.sparse, found.dense, found.ahead_s, strict=True)
    ):
        ours, theirs = frames.of(sparse), frames.of(dense)
        off_s = np.abs(frames.times_s[ours][:, None] - frames.times_s[theirs] - ahead_s)
        at = np.flatnonzero(off_s.min(axis=1) <= CLOCK_S + 1e-6)
        at = at[_spread(len(at), most)]
        nearest = off_s[at].argmin(axis=1)
        parts.append(np.stack([np.full(len(at), row), ours[at], theirs[nearest]]))
    return _rows(parts)


def _elsewhere(frames: Frames, found: Guesses) -> tuple[Ints, Ints, Ints]:
    """Frames that do not fall together by each guess's clocks, as `_together`."""
    parts = []
    for row, (sparse, dense, ahead_s) in enumerate(
        zip(found.sparse, found.dense, found.ahead_s, strict=True)
    ):
        ours, theirs = frames.of(sparse), frames.of(dense)
        off_s = np.abs(frames.times_s[ours][:, None] - frames.times_s[theirs] - ahead_s)
        first, second = np.nonzero(off_s >= APART_S)
        chosen = _spread(len(first), OTHERS)
        parts.append(
            np.stack([np.full(len(chosen), row), ours[first[chosen]], theirs[second[chosen]]])
        )
    return _rows(parts)


def _rows(parts: list[Ints]) -> tuple[Ints, Ints, Ints]:
    rows, ours, theirs = np.concatenate([np.empty((3, 0), np.int64), *parts], axis=1)
    return rows, ours, theirs


def _spread(count: int, most: int) -> Ints:
    """At most so many of so many things, evenly."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _laid_over(frames: Frames, found: Guesses, rows: Ints, ours: Ints, theirs: Ints) -> Fit:
    """Each pair of frames laid over each other once, however often it is asked for."""
    asked = np.stack([rows, ours, theirs], axis=1)
    once, at = np.unique(asked, axis=0, return_inverse=True)
    rows, ours, theirs = once.T
    pictures = frames.fingerprints[ours], frames.fingerprints[theirs]
    return register(*pictures, found.mirror[rows], found.warp[rows])[at.ravel()]


# --- what decides -------------------------------------------------------------------------------


def terms(frames: Frames, found: Guesses) -> Terms:
    """What the log odds are a weighted sum of, each [G]."""
    count = len(found.sparse)
    rows, ours, theirs = _together(frames, found, MOMENTS)
    other_rows, *others = _elsewhere(frames, found)
    before = np.maximum(theirs - 1, frames.first[found.dense[rows]])
    after = np.minimum(theirs + 1, frames.first[found.dense[rows] + 1] - 1)
    asked = (
        np.concatenate([rows, rows, rows, other_rows]),
        np.concatenate([ours, ours, ours, others[0]]),
        np.concatenate([theirs, before, after, others[1]]),
    )
    every = _laid_over(frames, found, *asked)
    cuts = np.arange(1, 4) * len(rows)
    now, then, later, elsewhere = (every[part] for part in np.split(np.arange(len(asked[0])), cuts))
    late_s = frames.times_s[ours] - found.ahead_s[rows]
    gaps_s = [frames.times_s[at] - late_s for at in (theirs, before, after)]
    values = _fit_terms(now, rows, count)
    values["both"] = shown_by_both(frames, found.sparse, found.dense, found.ahead_s)[1]
    values |= _against_usual(values, elsewhere, other_rows, count)
    for name in ("luma", "color"):
        soft = [getattr(fit, name) for fit in (now, then, later)]
        left = mixed(soft, gaps_s, rows, count)
        values |= _soft_terms(name, left, getattr(elsewhere, name), rows, other_rows, count)
    return values


def _fit_terms(fit: Fit, rows: Ints, count: int) -> Terms:
    """How well the frames of each guess fit; the better half of them counts on its own, too."""
    across, down = (_deviation(fit.warp[:, axis], rows, count) for axis in (1, 3))
    return {
        "": np.ones(count),
        "moments": np.log2(np.bincount(rows, minlength=count)),
        "edges": _mean(fit.edges, rows, count),
        "best_edges": -_better_half(-fit.edges, rows, count),
        "differs": _mean(fit.differs, rows, count),
        "best_differs": _better_half(fit.differs, rows, count),
        "outside": 1 - _mean(fit.overlap, rows, count),
        # A crop stays where it is; two cameras do not move alike.
        "drift": np.minimum(across + down, 0.5),
    }


def _against_usual(values: Terms, elsewhere: Fit, rows: Ints, count: int) -> Terms:
    """What differs as a share of what differs elsewhere."""
    usual = _mean(elsewhere.differs, rows, count) + 0.03
    none = np.bincount(rows, minlength=count) == 0
    share = np.minimum(values["best_differs"] / usual, 1.5)
    # Clips too short to have other moments are given what is usual between the two cases.
    return {"best_differs_share": np.where(none, 0.5, share)}


def mixed(soft: list[Reals], gaps_s: list[Doubles], rows: Ints, count: int) -> Doubles:
    """What is left of each moment when the frames before and after are mixed.

    Args:
        soft: what is left with the nearest frame, the one before, the one after, each [M, Q].
        gaps_s: how much later than the moment each of them is, [M]. At the ends of a clip the
            nearest frame stands for the missing one.
        rows: guess of each moment [M].
        count: how many guesses there are.

    Returns:
        Mean square over places [M], for the mixture of each guess's best instant.
    """
    alone = (soft[0] ** 2).mean(axis=1)
    squares = [(near**2).mean(axis=1) for near in soft[1:]]
    products = [(soft[0] * near).mean(axis=1) for near in soft[1:]]
    tried = []
    for off_s in OFF_S:
        late = off_s >= gaps_s[0]
        other_s = np.where(late, gaps_s[2], gaps_s[1]) - gaps_s[0]
        share = np.where(other_s == 0, 0, (off_s - gaps_s[0]) / np.where(other_s == 0, 1, other_s))
        share = share.clip(0, 1)
        square, product = (np.where(late, pair[1], pair[0]) for pair in (squares, products))
        tried.append(
            (1 - share) ** 2 * alone + 2 * share * (1 - share) * product + share**2 * square
        )
    best = np.argmin([_mean(left, rows, count) for left in tried], axis=0)
    return np.asarray(np.array(tried)[best[rows], np.arange(len(rows))])


def _soft_terms(
    name: str, left: Doubles, elsewhere: Reals, rows: Ints, other_rows: Ints, count: int
) -> Terms:
    usual = _mean((elsewhere**2).mean(axis=1), other_rows, count)
    none = np.bincount(other_rows, minlength=count) == 0
    all_left = _mean(left, rows, count)
    return {
        f"best_{name}_left": np.log(_better_half(left, rows, count) + 0.02),
        f"{name}_share": np.where(none, -1.0, np.log((all_left + 0.03) / (usual + 0.03))),
        f"{name}_usual": np.where(none, 0.0, np.log(usual + 0.02)),
    }


def _mean(values: Reals, rows: Ints, count: int) -> Doubles:
    """Mean of the values of each row, 0 where it has none."""
    total = np.bincount(rows, values, minlength=count)
    return np.asarray(total / np.maximum(1, np.bincount(rows, minlength=count)))


def _deviation(values: Reals, rows: Ints, count: int) -> Doubles:
    centre = _mean(values, rows, count)
    return np.sqrt(_mean((values - centre[rows]) ** 2, rows, count))


def _better_half(values: Reals, rows: Ints, count: int) -> Doubles:
    """Mean of the lower half of each row's values."""
    order = np.lexsort((values, rows))
    many = np.bincount(rows, minlength=count)
    half = (many + 1) // 2
    place = np.arange(len(rows)) - (np.cumsum(many) - many)[rows[order]]
    low = order[place < half[rows[order]]]
    return np.asarray(np.bincount(rows[low], values[low], count) / np.maximum(1, half))
