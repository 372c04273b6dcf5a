"""Smoothing of trajectories before they are executed, continuous with the motion before them.

Actions are displacements, so their running sum is a path, their differences are accelerations, and
the second ones jerks. GR-2 (arXiv 2410.06158, section 3) optimises the predicted trajectory for
smoothness and continuity and does not publish how; this is the least-squares form of it:

    minimise over v   |sum(v) - sum(p)|^2 + weight * |second differences of (done, v)|^2

where p are the predicted displacements, sum is the running sum, and done are the last two
displacements that were executed. The path stays near the predicted one, and its end nearer than its
middle bends; both terms have one unit, so the weight has none.

Shapes: k actions of a chunk, A numbers of an arm, d <= 2 that were executed before.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def smooth(predicted_kA: Floats, done_dA: Floats, weight: float) -> Floats:
    """Smooth displacements: float32 [k, A].

    Args:
        predicted_kA: displacements.
        done_dA: the last ones that were executed, oldest first; fewer at the start of an episode.
        weight: of the jerk.
    """
    inverse_kk, pull_kd = _solution(len(predicted_kA), len(done_dA), weight)
    path_kA = np.cumsum(predicted_kA, axis=0)[::-1].cumsum(axis=0)[::-1]  # sum^T sum p
    smoothed_kA: Floats = (inverse_kk @ path_kA - pull_kd @ done_dA).astype(np.float32)
    return smoothed_kA


@cache
def _solution(k: int, d: int, weight: float) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(S'S + w J'J)^-1 and that times w J'B, where the jerks are J v + B done."""
    sums = np.tril(np.ones((k, k)))
    jerk = np.zeros((max(0, k + d - 2), k + d))
    for row in range(len(jerk)):
        jerk[row, row : row + 3] = 1, -2, 1
    before, own = jerk[:, :d], jerk[:, d:]
    inverse = np.linalg.inv(sums.T @ sums + weight * own.T @ own)
    return inverse, inverse @ (weight * own.T @ before)


def blend(chunks: Sequence[tuple[int, Floats]], step: int, rate: float) -> Floats:
    """Mix what several chunks mean for the same moments: float32 [k, A].

    Args:
        chunks: the step at which each was predicted, and its actions [k, A]; the last one is new.
        step: of now.
        rate: weight exp(-rate * i) for the i-th oldest (ACT, arXiv 2304.13705).
    """
    length = len(chunks[-1][1])
    mixed = np.zeros(chunks[-1][1].shape)
    for ahead in range(length):
        at = [(begun, actions[step + ahead - begun]) for begun, actions in chunks
              if step + ahead - begun < len(actions)]  # fmt: skip
        weights = np.exp(-rate * np.arange(len(at)))
        mixed[ahead] = sum(w * a for w, (_, a) in zip(weights, at, strict=True)) / weights.sum()
    return mixed.astype(np.float32)


def jerk_m_s3(action_kA: Floats, hz: float) -> float:
    """Root mean square of the jerk of displacements in metres: third derivative of the path."""
    if len(action_kA) < 3:
        return 0.0
    thirds = np.diff(action_kA[:, :3].astype(np.float64), n=2, axis=0) * hz**3
    return float(np.sqrt((thirds**2).sum(1).mean()))
