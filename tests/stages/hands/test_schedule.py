"""Which frames are searched, and when to stop: laws of the plan and of the sequential test."""

import numpy as np
import pytest

from handloom.stages.hands import schedule as sampling
from handloom.stages.hands.schedule import (
    ENOUGH_KEYS,
    FALSE_NO,
    FALSE_YES,
    cheapest_first,
    is_decided,
    nearest_first,
    whole_grid,
)

RATE = {"per_second": 2.0, "at_least": 4}
NO_KEYS = np.array([0.0])


def times(plan: sampling.Plan) -> set[float]:
    return {sample.time_s for sample in plan.samples}


@pytest.mark.parametrize("gop_s", [0.5, 1.0, 2.0])
def test_enough_key_frames_are_all_that_is_decoded(gop_s: float) -> None:
    keys_s = np.arange(0, 100, gop_s)
    plan = cheapest_first(20.3, 29.0, keys_s, **RATE)
    keys, more = plan.samples[: plan.enough], plan.samples[plan.enough :]
    assert all(not s.is_key for s in more)
    assert len(keys) >= max(ENOUGH_KEYS, plan.stored)
    assert {s.time_s for s in keys} == {t for t in keys_s if 20.3 <= t < 29.0}
    assert all(s.is_key for s in keys)


def test_key_frames_come_first_where_they_are_few() -> None:
    plan = cheapest_first(20.3, 29.0, np.arange(0, 100, 5.0), **RATE)
    assert plan.samples[0].time_s == 25.0  # the only one inside
    assert all(not s.is_key for s in plan.samples[1:])
    assert times(plan) == set(np.arange(20.5, 29.0, 0.5))


@pytest.mark.parametrize("gop_s", [3.0, 5.0, 10.0])
def test_parts_of_long_videos_are_searched_next_to_key_frames(gop_s: float) -> None:
    keys_s = np.arange(0, 100, gop_s)
    for start_s in np.arange(11.3, 50, 1.7):
        plan = nearest_first(start_s, start_s + 7, keys_s, **RATE)
        every_time = cheapest_first(start_s, start_s + 7, keys_s, **RATE)
        assert times(plan) == times(every_time)
        inside = {t for t in keys_s if start_s <= t < start_s + 7}
        assert {s.time_s for s in plan.samples[: len(inside)]} == inside
        ways_s = [s.time_s % gop_s for s in plan.samples[len(inside) :]]
        assert ways_s == sorted(ways_s)
        assert plan.stored <= plan.enough
        assert all(way_s <= sampling.NEAR_S for way_s in ways_s[: plan.enough - len(inside)][2:])


@pytest.mark.parametrize("gop_s", [1.0, 5.0, 10.0])
def test_the_nearest_key_frames_outside_speak_for_the_frames_next_to_them(gop_s: float) -> None:
    keys_s = np.arange(0, 100, gop_s)
    plan = nearest_first(22.3, 29.2, keys_s, **RATE)
    before, after = plan.outside
    assert before.key.time_s == max(t for t in keys_s if t < 22.3)
    assert after.key.time_s == min(t for t in keys_s if t >= 29.2)
    assert all(o.key.is_key and o.key.time_s in keys_s for o in plan.outside)
    assert {s.time_s for o in plan.outside for s in o.nearest} <= times(plan)
    assert max(s.time_s for s in before.nearest) < min(s.time_s for s in after.nearest)


def test_there_is_nothing_outside_at_the_ends_of_a_video_and_far_away() -> None:
    assert nearest_first(0.0, 6.0, np.array([0.0]), **RATE).outside == []
    assert nearest_first(30.0, 36.0, np.array([0.0, 60.0]), **RATE).outside == []


def test_every_frame_of_an_intra_coded_file_is_a_key_frame_and_few_are_wanted() -> None:
    plan = cheapest_first(1.0, 5.0, np.arange(0, 10, 1 / 30), **RATE)
    assert np.diff(sorted(s.time_s for s in plan.samples[: plan.enough])).min() >= sampling.APART_S


def test_a_clip_shifted_by_a_second_shares_its_frames() -> None:
    one, other = (times(cheapest_first(s, s + 6, NO_KEYS, **RATE)) for s in (3.2, 4.2))
    assert one & other == {t for t in one if t >= 4.2}


@pytest.mark.parametrize("seconds", [0.1, 0.7, 1.9, 60.0])
def test_every_clip_gets_its_frames_however_short(seconds: float) -> None:
    for plan in (
        whole_grid(7.03, 7.03 + seconds, **RATE),
        cheapest_first(7.03, 7.03 + seconds, NO_KEYS, **RATE),
    ):
        assert len(times(plan)) == len(plan.samples) >= max(4, int(2 * seconds))
        assert all(7.03 <= t < 7.03 + seconds for t in times(plan))


def test_a_clip_of_an_hour_is_sampled_sparsely() -> None:
    keys_s = np.arange(0, 4000, 1.0)
    for plan in (whole_grid(3.0, 3603.0, **RATE), cheapest_first(3.0, 3603.0, keys_s, **RATE)):
        assert sampling.MOST_FRAMES / 2 <= plan.enough <= sampling.MOST_FRAMES
        assert max(times(plan)) - min(times(plan)) > 3500


def test_the_frames_that_make_a_clear_no_are_spread_over_the_clip() -> None:
    samples = cheapest_first(20.3, 29.0, NO_KEYS, **RATE).samples[: sampling.MISSES_FOR_NO]
    assert is_decided(0, len(samples), part=False)
    assert not is_decided(0, len(samples) - 1, part=False)
    gaps = np.diff([20.3, *(s.time_s for s in samples), 29.0])
    assert gaps.min() > 0
    assert gaps.max() < 2.5


def test_the_middle_comes_first() -> None:
    samples = [sampling.Sample(float(i)) for i in range(9)]
    order = [s.time_s for s in sampling.coarse_to_fine(samples)]
    assert order[0] == 4
    assert set(order[:3]) == {4, 2, 7}
    assert sorted(order) == list(range(9))


@pytest.mark.parametrize("part", [False, True])
def test_what_is_clear(part: bool) -> None:
    assert not is_decided(1, 0, part)
    assert is_decided(2, 0, part)
    assert is_decided(2, 1, part)
    assert not is_decided(2, 2, part)
    assert not is_decided(0, 5, part)
    assert is_decided(0, 6, part)
    assert not is_decided(1, 8, part)
    assert is_decided(1, 9, part) == part


@pytest.mark.parametrize("outside", [0, 1, 2])
def test_key_frames_around_a_clip_are_misses_until_there_is_a_hit(outside: int) -> None:
    assert not is_decided(0, 5 - outside, True, outside)
    assert is_decided(0, 6 - outside, True, outside)
    assert not is_decided(1, 8, True, outside)


def test_a_clip_with_hands_is_hardly_ever_given_up_early() -> None:
    """Wald: the share of wrong answers is at most its bound over one minus the other."""
    rng = np.random.default_rng(0)
    given_up = 0
    for _ in range(4000):
        hits = misses = 0
        while not is_decided(hits, misses, part=False) and misses < 40:
            hit = rng.random() < sampling.HAND_SHARE
            hits, misses = hits + hit, misses + (not hit)
        given_up += hits == 0
    assert given_up / 4000 <= FALSE_NO / (1 - FALSE_YES) + 0.01
