"""How alike two clips are, from the fingerprints of their frames.

A seed says that one frame of a clip looks like a view of a frame of another. It implies where the
one picture lies in the other, and how the two clocks differ. Other frames that fall together by
these clocks are then registered one by one (the camera may move between samples) and compared.

Frames of a copy are hardly ever sampled at the same instant, so that a hand is elsewhere in them.
Whether that is much depends on the clips: what differs is set against what differs between frames
that do not fall together by these clocks. Two clips of one table differ about as much in both.

Shapes: S seeds, R pairs of frames, P pairs of clips.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.stages import fingerprints as fp
from handloom.stages.overlay import Floats, blurred, halved, lay_over, sampled, shifted

Ints = npt.NDArray[np.int64]
BLOCK = 1024  # pairs of frames registered at a time: 100 MB

# A seed's frames that fit worse at a first look are not followed up. That spares three quarters of
# the work in clips of shared rooms and lost none of 421 copies.
MIN_EDGES, MAX_DIFFERS, MIN_OVERLAP = 0.5, 0.4, 0.6
MIN_SHARED = 0.4  # of the shorter clip's time both must show: a second's shift leaves half of 2 s
FOLLOWED = 5  # seeds followed up for each pair of clips
CLOCK_S = 0.3  # frames fall together when their times differ by no more
MOMENTS = 12  # frames compared for each seed
APART_S = 0.9  # moments that far apart are others
OTHERS = 6  # of those that are compared for each seed

LUMA_NOISE, CHROMA_NOISE = 6.0, 6.0  # levels that lossy encoding moves a cell of a picture by
SLACK = 0.5  # cells that registration may be off by, times the slope there

# Logistic regression on 421 planted copies and 2,000 other pairs, rendered and real; the constant
# was then lowered by 0.4: a clip dropped by mistake costs more than a repeat that stays.
WEIGHTS = {
    "edges": 7.5,
    "best_edges": 5.3,
    "differs": -7.1,
    "best_differs": -7.1,
    "share_of_usual": -9.9,
    "moments": 1.2,
    "": -6.3,
}


@dataclass(frozen=True)
class Frames:
    """The frames of all clips in a row."""

    fingerprints: fp.Fingerprints  # [F, 1152]
    times_s: npt.NDArray[np.float64]  # [F] on the clock of each clip's file
    clip: npt.NDArray[np.int32]  # [F] ascending
    group: npt.NDArray[np.int32]  # [F]
    first: Ints  # [clips + 1] where each clip's frames begin

    def of(self, clip: int) -> Ints:
        """Numbers of a clip's frames."""
        return np.arange(self.first[clip], self.first[clip + 1])


@dataclass(frozen=True)
class Fit:
    """How pairs of frames fit when laid over each other."""

    warp: Floats  # [R, 4], see overlay.py
    edges: Floats  # [R] correlation of what is finer than three cells, -1 to 1
    differs: Floats  # [R] share of the picture that differs, 0 to 1
    overlap: Floats  # [R] share of the first picture that lies in the second

    def __getitem__(self, rows: object) -> "Fit":
        return Fit(*(getattr(self, name)[rows] for name in Fit.__dataclass_fields__))


def compare(
    frames: Frames, seeds: npt.NDArray[np.void]
) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """Similarity of each pair of clips that has a seed worth following up.

    Args:
        frames: the frames of all clips that the seeds name.
        seeds: SEED [S] of near_duplicates.py, all those of a pair of clips together.

    Returns:
        Lower clip [P], higher clip [P], similarity 0 to 1 [P]; sorted by clips.
    """
    seeds, warp = _worth_following(frames, seeds)
    fits = []
    for together in (True, False):
        rows, ours, theirs = _moments(frames, seeds, together)
        fits.append((rows, register(frames, ours, theirs, seeds["view"][rows], warp[rows])))
    score = _scores(fits[0], fits[1], len(seeds))
    return _best(_pairs(seeds), score)


def _pairs(seeds: npt.NDArray[np.void]) -> Ints:
    """[S, 2] lower and higher clip."""
    return np.sort(np.stack([seeds["clip"], seeds["other"]], axis=1).astype(np.int64), axis=1)


def _best(
    pairs: Ints, score: npt.NDArray[np.float64]
) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    order = np.lexsort((-score, pairs[:, 1], pairs[:, 0]))
    pairs, score = pairs[order], score[order]
    new = np.ones(len(pairs), bool)
    new[1:] = np.any(pairs[1:] != pairs[:-1], axis=1)
    return pairs[new, 0], pairs[new, 1], score[new]


def _worth_following(
    frames: Frames, seeds: npt.NDArray[np.void]
) -> tuple[npt.NDArray[np.void], Floats]:
    """The seeds whose frames fit best, at most `FOLLOWED` a pair of clips, and their warps."""
    fit = register(
        frames, seeds["frame"], seeds["other_frame"], seeds["view"], VIEW_WARPS[seeds["view"]], True
    )
    good = np.flatnonzero(
        (fit.edges > MIN_EDGES)
        & (fit.differs < MAX_DIFFERS)
        & (fit.overlap > MIN_OVERLAP)
        & (_shared(frames, seeds) >= MIN_SHARED)
    )
    seeds, fit = seeds[good], fit[good]
    pairs, badness = _pairs(seeds), fit.differs - 0.3 * fit.edges
    ties = seeds["view"], seeds["other_frame"], seeds["frame"]
    order = np.lexsort((*ties, badness, pairs[:, 1], pairs[:, 0]))
    pairs = pairs[order]
    new = np.ones(len(pairs), bool)
    new[1:] = np.any(pairs[1:] != pairs[:-1], axis=1)
    begins = np.maximum.accumulate(np.where(new, np.arange(len(pairs)), 0))
    kept = order[np.arange(len(pairs)) - begins < FOLLOWED]
    return seeds[kept], fit.warp[kept]


def _shared(frames: Frames, seeds: npt.NDArray[np.void]) -> npt.NDArray[np.float64]:
    """Share of the shorter clip's time that both clips show by each seed's clocks, [S]."""
    begin_s, end_s = [], []
    for clip, frame in (("clip", "frame"), ("other", "other_frame")):
        first, last = frames.first[seeds[clip]], frames.first[seeds[clip] + 1] - 1
        # A sampled frame stands for the time until the next one.
        step_s = (frames.times_s[last] - frames.times_s[first]) / np.maximum(1, last - first)
        begin_s.append(frames.times_s[first] - frames.times_s[seeds[frame]])
        end_s.append(frames.times_s[last] + step_s - frames.times_s[seeds[frame]])
    both_s = np.min(end_s, axis=0) - np.max(begin_s, axis=0)
    shorter_s = np.min(np.subtract(end_s, begin_s), axis=0)
    return np.asarray(np.where(shorter_s > 0, both_s / np.maximum(shorter_s, 1e-6), 1.0))


def _moments(
    frames: Frames, seeds: npt.NDArray[np.void], together: bool
) -> tuple[Ints, Ints, Ints]:
    """Pairs of frames of each seed's clips that fall together by its clocks, or far apart.

    Returns:
        The seed's row [R], the frame of its clip [R], the frame of its other clip [R].
    """
    found = [np.empty((3, 0), np.int64)]
    for row, seed in enumerate(seeds):
        ours, theirs = frames.of(seed["clip"]), frames.of(seed["other"])
        ahead_s = frames.times_s[seed["frame"]] - frames.times_s[seed["other_frame"]]
        off_s = np.abs(frames.times_s[ours][:, None] - frames.times_s[theirs] - ahead_s)
        if together:
            nearest = off_s.argmin(axis=1)
            first = np.flatnonzero(off_s.min(axis=1) <= CLOCK_S + 1e-6)
            second = nearest[first]
        else:
            first, second = np.nonzero(off_s >= APART_S)
        chosen = _spread(len(first), MOMENTS if together else OTHERS)
        rows = np.full(len(chosen), row)
        found.append(np.stack([rows, ours[first[chosen]], theirs[second[chosen]]]))
    rows, ours, theirs = np.concatenate(found, axis=1)
    return rows, ours, theirs


def _spread(count: int, most: int) -> Ints:
    """At most so many of so many things, evenly."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _scores(
    together: tuple[Ints, Fit], elsewhere: tuple[Ints, Fit], count: int
) -> npt.NDArray[np.float64]:
    """Similarity of each seed, 0 to 1; the better half of its moments counts on its own, too."""
    rows, fit = together
    moments = np.bincount(rows, minlength=count)
    others = np.bincount(elsewhere[0], minlength=count)
    differs = _better_half(fit.differs, rows, moments)
    usual = np.bincount(elsewhere[0], elsewhere[1].differs, count) / np.maximum(1, others)
    share = np.minimum(differs / (usual + 0.03), 1.5)
    terms = {
        "edges": np.bincount(rows, fit.edges, count) / moments,
        "best_edges": -_better_half(-fit.edges, rows, moments),
        "differs": np.bincount(rows, fit.differs, count) / moments,
        "best_differs": differs,
        # Clips too short to have other moments are given what is usual between the two cases.
        "share_of_usual": np.where(others > 0, share, 0.5),
        "moments": np.log2(moments),
        "": np.ones(count),
    }
    return np.asarray(1 / (1 + np.exp(-sum(WEIGHTS[name] * terms[name] for name in terms))))


def _better_half(values: Floats, rows: Ints, moments: Ints) -> npt.NDArray[np.float64]:
    """Mean of the lower half of each row's values."""
    order = np.lexsort((values, rows))
    begins = np.cumsum(moments) - moments
    low = np.arange(len(rows)) - begins[rows] < ((moments + 1) // 2)[rows]
    total = np.bincount(rows[low], values[order][low], minlength=len(moments))
    return np.asarray(total / ((moments + 1) // 2))


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


def register(
    frames: Frames,
    first: Ints,
    second: Ints,
    view: npt.NDArray[np.uint8],
    warp: Floats,
    rough: bool = False,
) -> Fit:
    """Lay frames over frames, starting from warps; `rough` for a first look.

    Args:
        first: numbers of frames [R].
        second: numbers of frames [R], mirrored where the view says so.
        view: numbers of views [R].
        warp: float32 [R, 4].
        rough: at half the resolution, and only near the given warp.
    """
    fits = []
    for start in range(0, len(first), BLOCK):
        part = slice(start, start + BLOCK)
        ours, theirs = (frames.fingerprints[rows[part]] for rows in (first, second))
        mirror = MIRRORED[view[part]]
        a, b = fp.luma(ours), _mirrored(fp.luma(theirs), mirror)
        small = halved(a), halved(b)
        if rough:
            found = lay_over(*small, warp[part], rounds=6)
        else:
            found = lay_over(*small, shifted(*small, warp[part]), rounds=4)
            found = lay_over(a, b, found, rounds=3)
        chroma = fp.chroma(ours), _mirrored(fp.chroma(theirs), mirror)
        fits.append(_measure(a, b, *chroma, found))
    if not fits:
        none = np.empty(0, np.float32)
        return Fit(np.empty((0, 4), np.float32), none, none, none)
    columns = [[getattr(fit, name) for fit in fits] for name in Fit.__dataclass_fields__]
    return Fit(*(np.concatenate(column) for column in columns))


def _mirrored(pictures: Floats, mirror: npt.NDArray[np.bool_]) -> Floats:
    return np.where(mirror.reshape(-1, *[1] * (pictures.ndim - 1)), pictures[..., ::-1], pictures)


def _measure(a: Floats, b: Floats, a_chroma: Floats, b_chroma: Floats, warp: Floats) -> Fit:
    """What is left when second pictures lie over first ones, where they overlap."""
    seen, inside = sampled(b[:, None], warp, fp.LUMA_SIDE)
    a, b = blurred(a, 0.5), blurred(seen[:, 0], 0.5)
    weight = inside / (inside.sum(axis=(1, 2), keepdims=True) + 1e-6).astype(np.float32)

    def mean(values: Floats) -> Floats:
        return np.asarray((values * weight).sum(axis=(1, 2), keepdims=True), np.float32)

    ours, theirs = a - mean(a), b - mean(b)
    # A copy may be somewhat brighter or of another contrast.
    gain = (mean(ours * theirs) / (mean(theirs**2) + 1)).clip(0.7, 1.4)
    steep = np.hypot(*np.gradient(a, axis=(1, 2)))
    wrong = ((ours - gain * theirs) / (LUMA_NOISE + SLACK * steep)) ** 2
    wrong += _wrong_color(a_chroma, b_chroma, warp)
    fine = a - blurred(a, 3), b - blurred(b, 3)
    strength = np.sqrt(mean(fine[0] ** 2) * mean(fine[1] ** 2) + 1e-3)
    return Fit(
        warp,
        (mean(fine[0] * fine[1]) / strength).ravel(),
        mean(wrong / (1 + wrong)).ravel(),
        inside.mean(axis=(1, 2), dtype=np.float32),
    )


def _wrong_color(a: Floats, b: Floats, warp: Floats) -> Floats:
    """Squared difference of colour in units of what is usual, on the grid of luma [R, 32, 32]."""
    b = sampled(b, warp, fp.CHROMA_SIDE)[0]
    steep = np.hypot(*np.gradient(a, axis=(2, 3)))
    wrong = (((a - b) / (CHROMA_NOISE + SLACK * steep)) ** 2).mean(axis=1)
    step = fp.LUMA_SIDE // fp.CHROMA_SIDE
    return np.repeat(np.repeat(wrong, step, axis=1), step, axis=2)
