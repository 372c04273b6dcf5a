"""Similarity of two clips, from the fingerprints of their frames; `compare_clips` is the entry.

An alignment (alignments.py) says how the clips' images and clocks map to each other. The frames
that it puts at the same moment are registered pair by pair, since the camera may move between
samples. A few pairs screen the alignments, more pairs and a logistic regression give the verdict.

Frames of a copy are hardly ever sampled at the same instant, so that a hand is elsewhere in them.
Two measures tell a copy from other footage of the same table. Differences count relative to those
between frames of other moments. And at the scale of a hand, a frame is compared with an
interpolation of the other clip's frames before and after it, with one clock error for all frames:
a hand lies between the places where those two show it.

Shapes: G alignments, M moments, R pairs of frames, P pairs of clips, Q cells of a residual.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from handloom.stages.duplicates.alignments import (
    Alignments,
    Doubles,
    FrameTable,
    Ints,
    propose_alignments,
    time_overlap,
)
from handloom.stages.duplicates.register import Fit, register

CHUNK = 256  # alignments compared at a time: 10,000 pairs of frames, 100 MB
SAME_MOMENT_S = 0.3  # frames show the same moment if their times differ by no more
OTHER_MOMENT_S = 0.9  # and another moment if they differ by at least this
SCREEN_MOMENTS, MOMENTS = 5, 12  # pairs of the same moment, for screening and for the verdict
OTHER_MOMENTS = 8  # pairs of other moments, for the verdict
MIN_SCREEN_ODDS = -4.0  # log odds; screening drops alignments below
SURE = 0.9  # similarity by the likeliest alignment, from which on a pair's others are not tried
# Clock offsets come from sampled frames and are off by up to half a sampling interval.
CLOCK_ERRORS_S = np.linspace(-0.5, 0.5, 11)

# Weights of logistic regressions, fitted on copies planted among 1,600 rendered clips (of shared
# rooms, none of them counted by benchmarks/bench_duplicates.py) and among 124 clips of real files.
SCREEN_WEIGHTS = {
    "moments": 1.6, "edges": -3.2, "best_edges": 14.5, "difference": -16.9,
    "best_difference": -18.2, "constant": -6.5,
}  # fmt: skip
# `time_overlap` is set by hand: a regression gives it 11, since planted copies are about as long as
# their originals; with 6 clear partial copies are still found. The constant was lowered by 0.4: a
# clip dropped by mistake costs more than a repeat that stays.
VERDICT_WEIGHTS = {
    "moments": 1.2, "best_edges": 7.3, "area_outside": -4.9, "drift": -5.3, "time_overlap": 6.0,
    "best_difference_ratio": -6.0, "luma_ratio": -1.3, "luma_baseline": -0.9, "color_ratio": -2.1,
    "best_color_residual": -1.0, "constant": -14.2,
}  # fmt: skip

OddsFunction = Callable[[FrameTable, Alignments], Doubles]
Terms = dict[str, Doubles]
Reals = npt.NDArray[np.floating[Any]]


def compare_clips(
    frames: FrameTable, candidates: npt.NDArray[np.void]
) -> tuple[Ints, Ints, Doubles]:
    """Similarity of each pair of clips that screening keeps.

    Args:
        frames: the frames of all clips that the candidates name.
        candidates: CANDIDATE [S] of candidates.py, all those of a pair of clips together.

    Returns:
        Lower clip number [P], higher one [P], similarity 0 to 1 [P]; sorted by clips. A similarity
        is that of the alignment that fits best, or of the likeliest one if that is SURE.
    """
    likely, screening = screen(frames, candidates)
    low, high = likely.pairs.T
    order = np.lexsort((-screening, high, low))
    likely, low, high = likely[order], low[order], high[order]
    new = np.ones(len(low), bool)
    new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    similarity = np.empty(len(low))
    similarity[new] = _similarity(frames, likely[np.flatnonzero(new)])
    pair = np.cumsum(new) - 1
    others = np.flatnonzero(~new & (similarity[new][pair] < SURE))
    best = similarity[new]
    np.maximum.at(best, pair[others], _similarity(frames, likely[others]))
    return low[new], high[new], best


def _similarity(frames: FrameTable, alignments: Alignments) -> Doubles:
    return np.asarray(1 / (1 + np.exp(-_in_chunks(frames, alignments, duplicate_odds))))


def screen(frames: FrameTable, candidates: npt.NDArray[np.void]) -> tuple[Alignments, Doubles]:
    """Alignments that a few pairs of frames do not rule out, and their log odds so far."""
    alignments = propose_alignments(frames, candidates)
    odds = _in_chunks(frames, alignments, screening_odds)
    likely = np.flatnonzero(odds > MIN_SCREEN_ODDS)
    return alignments[likely], odds[likely]


def _in_chunks(frames: FrameTable, alignments: Alignments, odds_function: OddsFunction) -> Doubles:
    starts = range(0, len(alignments.sparse), CHUNK)
    odds = [odds_function(frames, alignments[start : start + CHUNK]) for start in starts]
    return np.concatenate([np.empty(0), *odds])


def screening_odds(frames: FrameTable, alignments: Alignments) -> Doubles:
    """Log odds from SCREEN_MOMENTS pairs of frames, float64 [G]."""
    return _odds(SCREEN_WEIGHTS, screening_terms(frames, alignments))


def screening_terms(frames: FrameTable, alignments: Alignments) -> Terms:
    """Terms of the screening by name, float64 [G] each."""
    rows, ours, theirs = _same_moments(frames, alignments, SCREEN_MOMENTS)
    fit = _register_once(frames, alignments, rows, ours, theirs)
    return _fit_terms(fit, rows, len(alignments.sparse))


def duplicate_odds(frames: FrameTable, alignments: Alignments) -> Doubles:
    """Log odds that two clips show the same footage, float64 [G]."""
    return _odds(VERDICT_WEIGHTS, duplicate_terms(frames, alignments))


def _odds(weights: dict[str, float], values: Terms) -> Doubles:
    return np.asarray(sum(weights[name] * values[name] for name in weights))


# --- pairs of frames ----------------------------------------------------------------------------


def _same_moments(frames: FrameTable, alignments: Alignments, most: int) -> tuple[Ints, Ints, Ints]:
    """Pairs of frames of the same moment: alignment, sparse clip's frame, dense clip's, each [M].

    Every alignment has at least one, that of its candidate.
    """
    parts = []
    for row, ours, theirs, gaps_s in _time_gaps(frames, alignments):
        at = np.flatnonzero(gaps_s.min(axis=1) <= SAME_MOMENT_S + 1e-6)
        at = at[_evenly(len(at), most)]
        nearest = gaps_s[at].argmin(axis=1)
        parts.append(np.stack([np.full(len(at), row), ours[at], theirs[nearest]]))
    return _concatenate(parts)


def _other_moments(frames: FrameTable, alignments: Alignments) -> tuple[Ints, Ints, Ints]:
    """Pairs of frames of other moments, in the form of `_same_moments`; short clips have none."""
    parts = []
    for row, ours, theirs, gaps_s in _time_gaps(frames, alignments):
        first, second = np.nonzero(gaps_s >= OTHER_MOMENT_S)
        chosen = _evenly(len(first), OTHER_MOMENTS)
        parts.append(
            np.stack([np.full(len(chosen), row), ours[first[chosen]], theirs[second[chosen]]])
        )
    return _concatenate(parts)


def _time_gaps(
    frames: FrameTable, alignments: Alignments
) -> Iterator[tuple[int, Ints, Ints, Doubles]]:
    """For each alignment its number, the frames of both clips, and seconds between any two."""
    clips = zip(alignments.sparse, alignments.dense, alignments.offset_s, strict=True)
    for row, (sparse, dense, offset_s) in enumerate(clips):
        ours, theirs = frames.rows_of(sparse), frames.rows_of(dense)
        gaps_s = np.abs(frames.times_s[ours][:, None] - frames.times_s[theirs] - offset_s)
        yield row, ours, theirs, gaps_s


def _concatenate(parts: list[Ints]) -> tuple[Ints, Ints, Ints]:
    rows, ours, theirs = np.concatenate([np.empty((3, 0), np.int64), *parts], axis=1)
    return rows, ours, theirs


def _evenly(count: int, most: int) -> Ints:
    """At most `most` numbers below `count`, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _register_once(
    frames: FrameTable, alignments: Alignments, rows: Ints, ours: Ints, theirs: Ints
) -> Fit:
    """Fits of pairs of frames [M], each distinct pair registered once."""
    requested = np.stack([rows, ours, theirs], axis=1)
    once, at = np.unique(requested, axis=0, return_inverse=True)
    rows, ours, theirs = once.T
    pictures = frames.fingerprints[ours], frames.fingerprints[theirs]
    return register(*pictures, alignments.mirror[rows], alignments.warp[rows])[at.ravel()]


# --- terms of the regression --------------------------------------------------------------------


def duplicate_terms(frames: FrameTable, alignments: Alignments) -> Terms:
    """Terms of the verdict by name, float64 [G] each."""
    count = len(alignments.sparse)
    rows, ours, theirs = _same_moments(frames, alignments, MOMENTS)
    other_rows, *others = _other_moments(frames, alignments)
    before = np.maximum(theirs - 1, frames.first[alignments.dense[rows]])
    after = np.minimum(theirs + 1, frames.first[alignments.dense[rows] + 1] - 1)
    requested = (
        np.concatenate([rows, rows, rows, other_rows]),
        np.concatenate([ours, ours, ours, others[0]]),
        np.concatenate([theirs, before, after, others[1]]),
    )
    fits = _register_once(frames, alignments, *requested)
    cuts = np.arange(1, 4) * len(rows)
    nearest, earlier, later, elsewhere = (
        fits[part] for part in np.split(np.arange(len(requested[0])), cuts)
    )
    moments_s = frames.times_s[ours] - alignments.offset_s[rows]
    gaps_s = [frames.times_s[at] - moments_s for at in (theirs, before, after)]
    values = _fit_terms(nearest, rows, count)
    values["time_overlap"] = time_overlap(
        frames, alignments.sparse, alignments.dense, alignments.offset_s
    )[1]
    values |= _difference_ratio(values, elsewhere, other_rows, count)
    for name in ("luma", "color"):
        residuals = [getattr(fit, name) for fit in (nearest, earlier, later)]
        residual = interpolated_residual(residuals, gaps_s, rows, count)
        values |= _residual_terms(name, residual, getattr(elsewhere, name), rows, other_rows, count)
    return values


def _fit_terms(fit: Fit, rows: Ints, count: int) -> Terms:
    """Terms of the fit of each alignment's frames: of all pairs, and of the better half."""
    across, down = (_deviation(fit.warp[:, axis], rows, count) for axis in (1, 3))
    return {
        "constant": np.ones(count),
        "moments": np.log2(np.bincount(rows, minlength=count)),
        "edges": _mean(fit.edges, rows, count),
        "best_edges": -_better_half(-fit.edges, rows, count),
        "difference": _mean(fit.difference, rows, count),
        "best_difference": _better_half(fit.difference, rows, count),
        "area_outside": 1 - _mean(fit.overlap, rows, count),
        # The shift of a crop stays constant; two cameras do not move alike.
        "drift": np.minimum(across + down, 0.5),
    }


def _difference_ratio(values: Terms, elsewhere: Fit, rows: Ints, count: int) -> Terms:
    """The difference of the better half relative to that of other moments."""
    baseline = _mean(elsewhere.difference, rows, count) + 0.03
    none = np.bincount(rows, minlength=count) == 0
    ratio = np.minimum(values["best_difference"] / baseline, 1.5)
    # 0.5, half-way between copies and others, where a clip is too short to have other moments.
    return {"best_difference_ratio": np.where(none, 0.5, ratio)}


def interpolated_residual(
    residuals: list[Reals], gaps_s: list[Doubles], rows: Ints, count: int
) -> Doubles:
    """Mean square residual of each moment against an interpolation of the other clip's frames.

    Args:
        residuals: against the nearest frame, the one before and the one after, each [M, Q].
        gaps_s: how much later than the moment each of them is, [M]. At the ends of a clip the
            nearest frame stands for the missing one.
        rows: alignment of each moment [M].
        count: number of alignments.

    Returns:
        float64 [M], at the clock error of CLOCK_ERRORS_S that fits the alignment best.
    """
    alone = (residuals[0] ** 2).mean(axis=1)
    squares = [(near**2).mean(axis=1) for near in residuals[1:]]
    products = [(residuals[0] * near).mean(axis=1) for near in residuals[1:]]
    errors = []
    for error_s in CLOCK_ERRORS_S:
        late = error_s >= gaps_s[0]
        other_s = np.where(late, gaps_s[2], gaps_s[1]) - gaps_s[0]
        share = np.where(
            other_s == 0, 0, (error_s - gaps_s[0]) / np.where(other_s == 0, 1, other_s)
        )
        share = share.clip(0, 1)
        # |(1 - a) x + a y|^2 from three products, so that no error needs the images again.
        square, product = (np.where(late, pair[1], pair[0]) for pair in (squares, products))
        errors.append(
            (1 - share) ** 2 * alone + 2 * share * (1 - share) * product + share**2 * square
        )
    best = np.argmin([_mean(residual, rows, count) for residual in errors], axis=0)
    return np.asarray(np.array(errors)[best[rows], np.arange(len(rows))])


def _residual_terms(
    name: str, residual: Doubles, elsewhere: Reals, rows: Ints, other_rows: Ints, count: int
) -> Terms:
    baseline = _mean((elsewhere**2).mean(axis=1), other_rows, count)
    none = np.bincount(other_rows, minlength=count) == 0
    mean_residual = _mean(residual, rows, count)
    return {
        f"best_{name}_residual": np.log(_better_half(residual, rows, count) + 0.02),
        f"{name}_ratio": np.where(none, -1.0, np.log((mean_residual + 0.03) / (baseline + 0.03))),
        f"{name}_baseline": np.where(none, 0.0, np.log(baseline + 0.02)),
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
