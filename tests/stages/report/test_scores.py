"""Clips next to a threshold: the nearest ones, and none where all scores are the same."""

import numpy as np
import pyarrow as pa
import pytest

from handloom.stages.report.scores import SHOWN, Distribution
from handloom.stages.select import Criterion

AT_LEAST = Criterion("no_hands", "hand_share", "", at_least=0.25)


def distribution(*buckets: list[float]) -> Distribution:
    one = Distribution(AT_LEAST)
    for number, scores in enumerate(buckets):
        ids = pa.array([f"{number}-{i}" for i in range(len(scores))])
        one.add(f"{number:02x}", ids, np.array(scores))
    return one


def test_the_nearest_of_all_buckets_are_shown_nearest_first() -> None:
    rng = np.random.default_rng(0)
    buckets = [rng.random(50).tolist() for _ in range(3)]
    one, scores = distribution(*buckets), np.concatenate(buckets)
    failing = np.sort(scores[scores < 0.25])[::-1]
    passing = np.sort(scores[scores >= 0.25])
    assert [score for *_, score in one.failed.just()] == failing[:SHOWN].tolist()
    assert [score for *_, score in one.passed.just()] == passing[:SHOWN].tolist()
    assert (one.failed.count, one.passed.count) == (len(failing), len(passing))


@pytest.mark.parametrize(
    ("scores", "rejected", "kept"),
    [
        ([0.0] * 9 + [1.0] * 9, [], []),
        ([0.0] * 9 + [0.2] + [0.3] + [1.0] * 9, [0.2], [0.3]),
        ([0.2, 0.2, 0.1, 0.5], [0.2, 0.2], []),
        ([0.9999, 1.0], [], []),
    ],
)
def test_a_clip_is_next_to_a_threshold_only_if_others_are_further(
    scores: list[float], rejected: list[float], kept: list[float]
) -> None:
    for one in (distribution(scores), distribution(scores[::2], scores[1::2])):
        assert [score for *_, score in one.failed.just()] == rejected
        assert [score for *_, score in one.passed.just()] == kept
