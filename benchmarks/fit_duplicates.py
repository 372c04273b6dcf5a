"""Fit the weights by which `duplicates` compares clips, and say whether they are better than now.

    python benchmarks/fit_duplicates.py [--videos DIR DIR2] [--rendered 600] [--workers 2]

Copies are planted among rendered rooms and among spans of real files, as bench_duplicates.py makes
them. Half of the copies or originals lose their beginning or end, down to 1.5 s, so that clips that
overlap in part are fitted too. Logistic regressions with an L2 penalty are fitted on the alignments
of all candidates: one for the screening, one for the verdict.

Both sets of weights are judged on sources (rooms and files) that the new ones were not fitted on:
ten folds of sources, and of each fold the pairs that touch it. Intervals are from 1,000 resamples
of the sources. Nothing is written: the weights are printed, for compare.py.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import bench_duplicates as bench
import numpy as np
from bench_duplicates import CHANGES, Made
from rendered_rooms import ROOM_CLIPS
from scipy.optimize import minimize

from handloom.stages.duplicates import candidates as nd
from handloom.stages.duplicates import compare
from handloom.stages.duplicates.alignments import Alignments, FrameTable, propose_alignments
from handloom.stages.duplicates.candidates import ClipFrames

FOLDS, RESAMPLES, LIMIT, PRECISION = 10, 1000, 0.5, 0.99
RATES = (f"recall at {LIMIT}", f"precision at {LIMIT}", f"recall, precision {PRECISION}")
PENALTY = 0.5  # of squared weights in units of each term's deviation
OFFSET_S = 0.5  # by which the clock offset of an alignment of a copy may be off
SHORTEST_S = 1.5


@dataclass(frozen=True)
class Alignment:
    """Alignments of all candidates as arrays: what is fitted."""

    pair: np.ndarray  # [G] number of the pair of clips
    is_copy: np.ndarray  # [P] by pair
    sources: np.ndarray  # [P, 2] of the pair's clips
    fits: np.ndarray  # [G] false for alignments of copies at another moment: not fitted
    screen: np.ndarray  # [G, terms] of SCREEN_WEIGHTS
    verdict: np.ndarray  # [G, terms] of VERDICT_WEIGHTS
    planted: int  # copies, with those that have no candidate


def make(args: argparse.Namespace, pool: ProcessPoolExecutor) -> list[Made]:
    """Clips of `--rendered` rooms and of files, and copies of a third of them or of all."""
    numbers = range(args.first, args.first + args.rendered)
    kinds = [list(CHANGES)[n // 3 % len(CHANGES)] if n % 3 == 0 else "" for n in numbers]
    sets = list(pool.map(bench.make_rendered, numbers, kinds, chunksize=ROOM_CLIPS))
    files = sorted(str(p) for folder in args.videos for p in folder.rglob("*") if p.is_file())
    if files:
        pictures, spans = zip(
            *pool.map(bench.make_real, files, range(0, 7 * len(files), 7)), strict=True
        )
        sets += [spans[n] for n in bench.first_shown(list(pictures))]
    rng = np.random.default_rng(8)
    return [trimmed(made, rng) for some in sets for made in some]


def trimmed(made: Made, rng: np.random.Generator) -> Made:
    """The clip, every fourth time without its beginning or its end."""
    times_s, count = made.frames.times_s, len(made.frames.times_s)
    share = rng.uniform(0.4, 0.9)
    if rng.random() > 0.25 or count < 4 or share * (times_s[-1] - times_s[0]) < SHORTEST_S:
        return made
    some = (
        slice(0, round(count * share)) if rng.random() < 0.5 else slice(-round(count * share), None)
    )
    clip = made.frames
    frames = ClipFrames(clip.clip_id, clip.group, times_s[some], clip.fingerprints[some])
    return replace(made, frames=frames, footage_s=made.footage_s[some])


def source_of(made: Made) -> str:
    """The room or file that a clip shows."""
    name = bench.footage(made.frames.clip_id)
    return f"room {int(name[1:]) // ROOM_CLIPS}" if name[1:].isdigit() else name


def measure(made: list[Made]) -> Alignment:
    """Terms of all alignments of all candidates."""
    made = sorted((m for m in made if len(m.frames.times_s)), key=lambda m: m.frames.clip_id)
    frames = nd.stack_clips([m.frames for m in made])
    found = propose_alignments(frames, nd.find_candidates(frames))
    names = {name: n for n, name in enumerate(sorted({source_of(m) for m in made}))}
    source = np.array([names[source_of(m)] for m in made])
    low, high = found.pairs.T
    original = [m.original for m in made]
    ids = [m.frames.clip_id for m in made]
    pairs, pair = np.unique(low << 32 | high, return_inverse=True)
    ends = np.stack(nd.split_pairs(pairs), axis=1)
    is_copy = np.array([ids[a] == original[b] or ids[b] == original[a] for a, b in ends])
    same = (source[ends[:, 0]] == source[ends[:, 1]]) & ~is_copy
    real = np.array(["/" in source_of(made[a]) for a in ends[:, 0]])
    kept = ~(same & real)[pair]  # a still camera repeats itself: neither copy nor none
    pairs, pair = np.unique(pair[kept], return_inverse=True)
    found = found[np.flatnonzero(kept)]
    return Alignment(
        pair, is_copy[pairs], source[ends[pairs]], fitting(made, found, is_copy[pairs][pair]),
        terms(frames, found, compare.SCREEN_WEIGHTS), terms(frames, found, compare.VERDICT_WEIGHTS),
        sum(bool(m.original) for m in made),
    )  # fmt: skip


def fitting(made: list[Made], found: Alignments, is_copy: np.ndarray) -> np.ndarray:
    """Which alignments lay frames of the same moment over each other, of copies."""
    clock_s = np.array([np.median(m.frames.times_s - m.footage_s) for m in made])
    right_s = clock_s[found.sparse] - clock_s[found.dense]
    return ~is_copy | (np.abs(found.offset_s - right_s) <= OFFSET_S)


def terms(frames: FrameTable, found: Alignments, weights: dict[str, float]) -> np.ndarray:
    """The terms that weights name, [G, terms]."""
    parts = []
    for start in range(0, len(found.sparse), compare.CHUNK):
        some = found[start : start + compare.CHUNK]
        if weights is compare.SCREEN_WEIGHTS:
            values = compare.screening_terms(frames, some)
        else:
            values = compare.duplicate_terms(frames, some)
        parts.append(np.stack([values[name] for name in weights], axis=1))
    return np.concatenate([np.empty((0, len(weights))), *parts])


def fit(values: np.ndarray, is_copy: np.ndarray) -> np.ndarray:
    """Weights [terms] of a logistic regression; the last term is the constant."""
    scale = np.append(values[:, :-1].std(axis=0) + 1e-9, 1.0)
    signs, scaled = np.where(is_copy, 1.0, -1.0), values / scale

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = signs * (scaled @ weights)
        pull = -signs / (1 + np.exp(margin))
        penalty = np.append(PENALTY * weights[:-1], 0)
        total = np.logaddexp(0, -margin).sum() + 0.5 * float(penalty @ weights)
        return total, scaled.T @ pull + penalty

    return np.asarray(minimize(loss, np.zeros(len(scale)), jac=True, method="L-BFGS-B").x / scale)


def folds(data: Alignment) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs to fit on and pairs to judge, by fold; each pair is judged once."""
    fold = np.random.default_rng(9).permutation(data.sources.max() + 1) % FOLDS
    of_pair = fold[data.sources]
    for number in range(FOLDS):
        yield (
            np.flatnonzero((of_pair != number).all(axis=1)),
            np.flatnonzero(of_pair[:, 0] == number),
        )


def likelihoods(data: Alignment, screen: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """Similarity of each pair by some weights, 0 to 1 [P]."""
    odds = data.verdict @ verdict
    odds[data.screen @ screen <= compare.MIN_SCREEN_ODDS] = -np.inf
    best = np.full(len(data.is_copy), -np.inf)
    np.maximum.at(best, data.pair, odds)
    return np.asarray(1 / (1 + np.exp(-best)))


def fit_both(data: Alignment, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of screening and verdict, from some pairs."""
    here = np.isin(data.pair, pairs) & data.fits
    is_copy = data.is_copy[data.pair[here]]
    return fit(data.screen[here], is_copy), fit(data.verdict[here], is_copy)


def held_out(data: Alignment) -> np.ndarray:
    """Similarity of each pair by weights that were fitted on other sources."""
    similarity = np.zeros(len(data.is_copy))
    for fitted, judged in folds(data):
        similarity[judged] = likelihoods(data, *fit_both(data, fitted))[judged]
    return similarity


def rates(data: Alignment, similarity: np.ndarray, times: np.ndarray) -> np.ndarray:
    """RATES, each source counted so many times; recall is of the copies with candidates."""
    weight = times[data.sources[:, 0]]
    order = np.argsort(-similarity, kind="stable")
    copies = np.cumsum((weight * data.is_copy)[order])
    recall, precision = (
        copies / max(1, copies[-1]),
        copies / np.maximum(1, np.cumsum(weight[order])),
    )
    last = max(0, int((similarity >= LIMIT).sum()) - 1)
    good = recall[precision >= PRECISION]
    return np.array([recall[last], precision[last], good.max(initial=0)])


def report(data: Alignment, similarities: dict[str, np.ndarray]) -> None:
    """Rates of two sets of weights, and how the second differs from the first."""
    rng, sources = np.random.default_rng(10), int(data.sources.max()) + 1
    samples = [
        np.bincount(rng.integers(0, sources, sources), minlength=sources) for _ in range(RESAMPLES)
    ]
    drawn = {}
    for name, similarity in similarities.items():
        one = rates(data, similarity, np.ones(sources))
        drawn[name] = np.array([rates(data, similarity, times) for times in samples])
        say(name, one, drawn[name])
    now, new = drawn.values()
    say("difference", (new - now).mean(axis=0), new - now)


def say(name: str, values: np.ndarray, drawn: np.ndarray) -> None:
    """Print rates with their intervals of 95 %."""
    spans = np.percentile(drawn, (2.5, 97.5), axis=0).T
    for what, value, (low, high) in zip(RATES, values, spans, strict=True):
        print(f"{name:10} {what:24} {value:7.4f} ({low:.4f} to {high:.4f})")


def show(names: dict[str, float], weights: np.ndarray) -> None:
    """Weights as compare.py has them."""
    print(", ".join(f'"{n}": {w:.1f}' for n, w in zip(names, weights, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, nargs="*", default=[], help="folders of real files")
    parser.add_argument("--rendered", type=int, default=600, help="rendered clips")
    parser.add_argument("--first", type=int, default=0, help="number of the first rendered clip")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.workers) as pool:
        made = make(args, pool)
    data = measure(made)
    print(
        f"{len(made)} clips of {len(set(map(source_of, made)))} sources; {data.planted} copies, of "
        f"which {data.is_copy.sum()} have candidates; {(~data.is_copy).sum()} other pairs"
    )
    now = [np.array(list(w.values())) for w in (compare.SCREEN_WEIGHTS, compare.VERDICT_WEIGHTS)]
    report(data, {"now": likelihoods(data, *now), "held out": held_out(data)})
    for names, weights in zip(
        (compare.SCREEN_WEIGHTS, compare.VERDICT_WEIGHTS),
        fit_both(data, np.arange(len(data.is_copy))),
        strict=True,
    ):
        show(names, weights)


if __name__ == "__main__":
    main()
