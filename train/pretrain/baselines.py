"""Baselines that a model must beat.

    unigram          every code with its frequency in the training clips
    copy last frame  the code at the same place one frame earlier with probability p, else unigram

Both are fitted on training clips and scored on the positions on which the model is scored.

Shapes: M clips, V views, F frames, R rows, C columns, K codebook size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint16]
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """Scores of predicted codes."""

    cross_entropy: float
    """Mean negative log probability of the true code, in nats."""
    accuracy: float
    """Share of codes whose likeliest prediction is the true one."""


@dataclass(frozen=True)
class Swapped:
    """Loss of the model when clips are given the captions of others."""

    clips: int
    """Clips that were given another caption than their own."""
    nats: float
    """By how much the cross entropy of a code of frames 1 and later rises, nats."""
    right_preferred: float
    """Share of the clips that are likelier with their own caption: half by chance."""


@dataclass(frozen=True)
class Dynamics:
    """Scores of frames 1 and later that tell prediction from repetition."""

    changed_share: float
    """Share of the codes that differ from the one at the same place a frame earlier."""
    changed: Score | None
    """Of these; None where none changes. Copying has none of them right."""
    stayed: Score | None
    """Of the others. Copying has all of them right."""
    swapped: Swapped | None
    """None where no two clips have different captions."""


@dataclass(frozen=True)
class Validation:
    """Scores of a model on held-out clips of one dataset, or of all."""

    clips: int
    loss: float
    """Mean cross entropy over all codes, in nats."""
    first: Score
    """Frame 0, from the caption alone."""
    later: Score
    """Frames 1 and later."""
    dynamics: Dynamics
    """More of frames 1 and later: what changes, and whether captions matter."""


def datasets_to_print(names: Iterable[str]) -> list[str]:
    """The datasets whose scores get a line: `all` is left out beside a single one."""
    listed = list(names)
    return listed if len(listed) != 2 else [name for name in listed if name != "all"]


@dataclass(frozen=True)
class FrameByFrame:
    """Shares of codes of frames 1 and later that are predicted right.

    Temporally teacher-forced: the frames before are true, the codes before in the same frame are
    the model's own. The baselines are the same either way: they use no code of the same frame.
    """

    clips: int
    temporally_teacher_forced: float
    changed: float | None
    """Temporally teacher-forced, of the codes that differ from the one a frame earlier; None where
    none does. Copying has none of them right."""
    teacher_forced: float
    """The same model on the same clips with all codes before being true."""
    copy_last_frame: float
    unigram: float


@dataclass(frozen=True)
class Unigram:
    """Predicts each code with its frequency."""

    probability_K: Probabilities

    @classmethod
    def fit(cls, codes: Codes, codebook_size: int) -> "Unigram":
        """Count codes; each starts at one, so that an unseen code costs a finite amount."""
        counts_K = np.bincount(codes.ravel(), minlength=codebook_size) + 1.0
        return cls(counts_K / counts_K.sum())

    def score(self, codes: Codes) -> Score:
        """Score any set of codes."""
        hits = codes == self.probability_K.argmax()
        return Score(float(-np.log(self.probability_K[codes]).mean()), float(hits.mean()))


@dataclass(frozen=True)
class CopyLastFrame:
    """Predicts the code at the same place one frame earlier, with probability p; else unigram."""

    p: float
    unigram: Unigram

    @classmethod
    def fit(cls, codes_MVFRC: Codes, unigram: Unigram) -> "CopyLastFrame":
        """Find the p of the highest likelihood, by expectation maximisation."""
        same, other = _same_and_other(codes_MVFRC, unigram)
        p = 0.5
        for _ in range(50):
            p = float(np.mean(same * p / (same * p + (1 - p) * other)))
        return cls(p, unigram)

    def score(self, codes_MVFRC: Codes) -> Score:
        """Score frames 1 and later of clips."""
        same, other = _same_and_other(codes_MVFRC, self.unigram)
        likelihood = same * self.p + (1 - self.p) * other
        return Score(float(-np.log(likelihood).mean()), float(same.mean()))


def _same_and_other(
    codes_MVFRC: Codes, unigram: Unigram
) -> tuple[npt.NDArray[np.bool_], Probabilities]:
    before, after = codes_MVFRC[:, :, :-1], codes_MVFRC[:, :, 1:]
    return before == after, unigram.probability_K[after]
