"""Samples of clips: their size, and that only seed and ids decide."""

import numpy as np

from handloom.stages.report.sample import Sample

IDS = [f"{number:020x}" for number in range(400)]


def drawn(ids: list[str], most: int, seed: int = 0) -> list[str]:
    sample: Sample[str] = Sample(most, seed)
    for clip_id in ids:
        sample.add(clip_id, clip_id)
    assert sample.total == len(ids)
    return sample.values()


def test_all_are_drawn_if_fewer_come() -> None:
    assert sorted(drawn(IDS[:7], 24)) == IDS[:7]
    assert len(set(drawn(IDS, 24))) == 24


def test_order_changes_nothing_and_a_smaller_sample_is_part_of_a_larger_one() -> None:
    assert drawn(IDS, 24) == drawn(IDS[::-1], 24)
    assert drawn(IDS, 24)[:5] == drawn(IDS, 5)


def test_every_clip_is_drawn_as_often_over_many_seeds() -> None:
    counts = dict.fromkeys(IDS[:40], 0)
    for seed in range(1000):
        for clip_id in drawn(IDS[:40], 10, seed):
            counts[clip_id] += 1
    # Binomial: 250 of 1000 on average, with a standard deviation of 13.7.
    assert np.abs(np.array(list(counts.values())) - 250).max() < 5 * 13.7
