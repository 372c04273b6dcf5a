"""Chunks made smooth: the objective is at its least, and what is smooth already stays."""

import numpy as np
import pytest
from numpy.typing import NDArray

from handloom.train.policy.smoothing import blend, jerk_m_s3, smooth

K, A = 10, 6


@pytest.fixture
def jerky() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 0.02, (K, A)).astype(np.float32)


def done_before(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 0.02, (count, A)).astype(np.float32)


def objective(
    v: NDArray[np.float64], p: NDArray[np.float32], done: NDArray[np.float32], weight: float
) -> float:
    path = np.cumsum(v, axis=0) - np.cumsum(p.astype(np.float64), axis=0)
    thirds = np.diff(np.concatenate([done, v]), n=2, axis=0)
    return float((path**2).sum() + weight * (thirds**2).sum())


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("weight", [0.1, 3.0])
def test_no_neighbour_is_better(jerky: NDArray[np.float32], before: int, weight: float) -> None:
    done = done_before(before)
    best = smooth(jerky, done, weight).astype(np.float64)
    scale = objective(jerky.astype(np.float64), jerky, done, weight)
    for k in range(K):
        for a in range(A):
            nudge = np.zeros((K, A))
            nudge[k, a] = 1e-3
            up, down = (objective(best + s * nudge, jerky, done, weight) for s in (1, -1))
            # Of a quadratic, central differences give the gradient exactly.
            assert abs(up - down) / 2e-3 < 1e-4 * scale / 1e-2


@pytest.mark.parametrize("before", [0, 1, 2])
def test_what_moves_evenly_stays(before: int) -> None:
    velocity = np.array([0.01, -0.02, 0.0, 0.1, 0.0, -0.3], np.float32)
    steady, done = np.tile(velocity, (K, 1)), np.tile(velocity, (before, 1))
    np.testing.assert_allclose(smooth(steady, done, 5.0), steady, atol=1e-6)


def test_a_jump_from_what_was_done_is_eased() -> None:
    still, moving = np.zeros((2, A), np.float32), np.full((K, A), 0.02, np.float32)
    eased = smooth(moving, still, 10.0)
    assert (np.abs(eased[0]) < np.abs(moving[0])).all()
    before, after = (jerk_m_s3(np.concatenate([still, v]), 10.0) for v in (moving, eased))
    assert after < before / 2


def test_more_weight_less_jerk_and_none_changes_nothing(jerky: NDArray[np.float32]) -> None:
    done = done_before(2)
    jerks = [
        jerk_m_s3(np.concatenate([done, smooth(jerky, done, weight)]), 10.0)
        for weight in (0.0, 0.01, 0.1, 1.0, 10.0)
    ]
    assert jerks == sorted(jerks, reverse=True)
    assert jerks[-1] < jerks[0] / 2
    np.testing.assert_allclose(smooth(jerky, done, 0.0), jerky, atol=1e-7)


def test_the_end_is_reached(jerky: NDArray[np.float32]) -> None:
    # A chunk with a direction, as demonstrations have; its jitter is as large as its step.
    moving = jerky + np.float32(0.02)
    smoothed = smooth(moving, moving[:2], 0.1)
    way = np.linalg.norm(moving.sum(0))
    assert np.linalg.norm(smoothed.sum(0) - moving.sum(0)) < 0.02 * way


@pytest.mark.parametrize("length", [1, 2])
def test_chunks_shorter_than_a_jerk(length: int) -> None:
    chunk, nothing = done_before(length), np.zeros((0, A), np.float32)
    np.testing.assert_allclose(smooth(chunk, nothing, 1.0), chunk, atol=1e-7)


def test_jerk_is_the_third_derivative_of_the_path() -> None:
    # x = c t^3 has the jerk 6 c everywhere; displacements are its differences.
    hz, c = 10.0, 0.7
    path = c * (np.arange(K + 1) / hz) ** 3
    action = np.zeros((K, 7), np.float32)
    action[:, 1] = np.diff(path)
    assert jerk_m_s3(action, hz) == pytest.approx(6 * c, rel=1e-4)


def test_blending_weighs_the_oldest_most() -> None:
    old, new = np.zeros((4, 1), np.float32), np.ones((4, 1), np.float32)
    mixed = blend([(0, old), (2, new)], 2, 1.0)
    young = np.exp(-1) / (1 + np.exp(-1))
    # the old chunk speaks of steps 0 to 3, so of the first two of the new one
    np.testing.assert_allclose(mixed[:, 0], [young, young, 1, 1], rtol=1e-6)
